// Element types without NVIDIA's headers: f32, f16 and bf16 as bits, one rounding (nearest even) on the way out.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct F32 {
    typedef float storage;
    static __device__ __forceinline__ float narrow(float value) { return value; }
    static __device__ __forceinline__ float widen(float value) { return value; }
};

struct F16 {
    typedef u16 storage;
    static constexpr bool BRAIN = false;
    static __device__ __forceinline__ u16 narrow(float value) {
        u16 bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
        return bits;
    }
    static __device__ __forceinline__ float widen(u16 bits) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }
    // Two elements in one register, the first in the lower half.
    static __device__ __forceinline__ u32 narrow2(float first, float second) {
        u32 bits;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
        return bits;
    }
};

struct BF16 {
    typedef u16 storage;
    static constexpr bool BRAIN = true;
    static __device__ __forceinline__ u16 narrow(float value) {
        u16 bits;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
        return bits;
    }
    static __device__ __forceinline__ float widen(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }
    static __device__ __forceinline__ u32 narrow2(float first, float second) {
        u32 bits;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
        return bits;
    }
};
