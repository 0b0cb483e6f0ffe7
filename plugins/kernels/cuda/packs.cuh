// Neighbouring elements, read and written at once and held as f32. Needs numbers.cuh.
#pragma once

// As wide as their alignment allows, 16 bytes at most a load.
template <class E, int COUNT>
struct alignas(sizeof(E) * COUNT < 16 ? sizeof(E) * COUNT : 16) Pack {
    E values[COUNT];
};

template <class T, int COUNT>
__device__ __forceinline__ void load(const typename T::storage *from, float (&to)[COUNT]) {
    const Pack<typename T::storage, COUNT> pack = *reinterpret_cast<const Pack<typename T::storage, COUNT> *>(from);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) to[i] = T::widen(pack.values[i]);
}

template <class T, int COUNT>
__device__ __forceinline__ void store(const float (&from)[COUNT], typename T::storage *to) {
    Pack<typename T::storage, COUNT> pack;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) pack.values[i] = T::narrow(from[i]);
    *reinterpret_cast<Pack<typename T::storage, COUNT> *>(to) = pack;
}

// Defines one kernel for each type and for packs of 8 and 1 elements: NAME_f32_8, NAME_f32_1, …
#define FOR_TYPES_AND_PACKS(DEFINE) \
    DEFINE(F32, f32, 8)             \
    DEFINE(F32, f32, 1)             \
    DEFINE(F16, f16, 8)             \
    DEFINE(F16, f16, 1)             \
    DEFINE(BF16, bf16, 8)           \
    DEFINE(BF16, bf16, 1)

#define FOR_TYPES(DEFINE) \
    DEFINE(F32, f32)      \
    DEFINE(F16, f16)      \
    DEFINE(BF16, bf16)
