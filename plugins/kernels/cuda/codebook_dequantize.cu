// Block codebook of 4 bits to dense elements: table value times scale, one f32 product rounded once.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "overlap.cuh"
#include "scales.cuh"

static constexpr int BLOCKS = 5;  // of threads that a multiprocessor has room for

// Eight elements from four bytes of codes.
template <class T>
static __device__ __forceinline__ void put(typename T::storage* out, u32 word, float scale, const float* table,
                                           u32 low_first) {
    // Element 2j in the lower nibble of byte j, 2j + 1 in the upper.
    if (!low_first) word = (word & 0x0f0f0f0fu) << 4 | (word >> 4 & 0x0f0f0f0fu);
    float value[8];
#pragma unroll
    for (int j = 0; j < 8; j++) value[j] = __fmul_rn(table[word >> (4 * j) & 15], scale);
    if constexpr (sizeof(typename T::storage) == 4) {
        float4* to = reinterpret_cast<float4*>(out);
        to[0] = make_float4(value[0], value[1], value[2], value[3]);
        to[1] = make_float4(value[4], value[5], value[6], value[7]);
    } else {
        *reinterpret_cast<uint4*>(out) = make_uint4(T::narrow2(value[0], value[1]), T::narrow2(value[2], value[3]),
                                                    T::narrow2(value[4], value[5]), T::narrow2(value[6], value[7]));
    }
}

// Elements `first ..` of a flattened matrix, `first` and the block (`1 << block_shift`) multiples of 8, `count` any.
struct Flat {
    void* out;
    const u8* codes;
    const float* codebook;
    Scales scales;
    u64 first, count;
    u32 block_shift, low_first;
};

static constexpr int MOST_TOGETHER = 3;

// A matrix for each row of blocks.
struct Together {
    Flat parts[MOST_TOGETHER];
};

// A thread has AHEAD words of codes on their way, each for eight elements, while it turns as many into elements.
template <class T>
static __device__ __forceinline__ void dequantize_flat(const Flat& p) {
    constexpr int AHEAD = 4;
    typename T::storage* const out = static_cast<typename T::storage*>(p.out);
    const u32 block_shift = p.block_shift, low_first = p.low_first;
    const u64 first = p.first, count = p.count;
    // Sixteen floats lie in sixteen banks: any mix of codes is read without a conflict.
    __shared__ float table[16];
    if (threadIdx.x < 16) table[threadIdx.x] = p.codebook[threadIdx.x];
    __syncthreads();
    // The blocks at work are neighbours, and a small matrix is enough for all of them.
    const u64 whole = count / 8 * 8, stride = static_cast<u64>(gridDim.x) * blockDim.x * 8;
    u64 start = (static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    u32 word[AHEAD];
    float scale[AHEAD];
    auto fetch = [&](u64 from) {
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const u64 i = from + j * stride;
            if (i < whole) {
                word[j] = __ldcs(reinterpret_cast<const u32*>(p.codes + (first + i) / 2));
                scale[j] = scale_of(p.scales, static_cast<u32>((first + i) >> block_shift));
            }
        }
    };
    fetch(start);
    // What is written may still be read until then.
    end_of_overlap();
    while (start < whole) {
        const u64 at = start;
        u32 now[AHEAD];
        float its_scale[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) now[j] = word[j], its_scale[j] = scale[j];
        start += stride * AHEAD;
        fetch(start);
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const u64 i = at + j * stride;
            if (i < whole) put<T>(out + i, now[j], its_scale[j], table, low_first);
        }
    }
    if (blockIdx.x == 0 && threadIdx.x < count - whole) {
        u64 i = whole + threadIdx.x;
        u32 byte = p.codes[(first + i) / 2], code = ((i & 1) == low_first ? byte >> 4 : byte) & 15;
        out[i] = T::narrow(__fmul_rn(table[code], scale_of(p.scales, static_cast<u32>((first + i) >> block_shift))));
    }
}

// One element a thread and step: any shape, block and order. `row_blocks` is the blocks a row, 0 for flat blocks.
template <class T>
static __device__ __forceinline__ void dequantize_any(typename T::storage* out, const u8* codes, const float* codebook,
                                                      Scales scales, u64 first_row, u64 rows, u32 cols, u32 block,
                                                      u32 row_blocks, u32 low_first) {
    end_of_overlap();
    u64 count = rows * cols;
    u64 step = static_cast<u64>(gridDim.x) * blockDim.x;
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        u64 row = first_row + i / cols;
        u64 flat = first_row * cols + i;
        u32 col = static_cast<u32>(i % cols);
        u64 position = row_blocks ? row * ((cols + 1) & ~1u) + col : flat;
        u64 scale = row_blocks ? row * row_blocks + col / block : flat / block;
        u32 byte = codes[position / 2];
        u32 code = ((position & 1) == low_first ? byte >> 4 : byte) & 15;
        out[i] = T::narrow(__fmul_rn(codebook[code], scale_of(scales, static_cast<u32>(scale))));
    }
}

#define KERNELS(name, type)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS)                                                      \
        codebook_dequantize_flat_##name(const __grid_constant__ Together p) {                                      \
        dequantize_flat<type>(p.parts[blockIdx.y]);                                                                \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        codebook_dequantize_any_##name(type::storage* out, const u8* codes, const float* codebook, Scales scales,  \
                                       u64 first_row, u64 rows, u32 cols, u32 block, u32 row_blocks,               \
                                       u32 low_first) {                                                            \
        dequantize_any<type>(out, codes, codebook, scales, first_row, rows, cols, block, row_blocks, low_first);   \
    }
KERNELS(f32, F32)
KERNELS(f16, F16)
KERNELS(bf16, BF16)
