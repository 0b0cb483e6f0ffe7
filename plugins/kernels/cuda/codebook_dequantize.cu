// Block codebook of 4 bits to dense elements: table value times scale, one f32 product rounded once.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "overlap.cuh"
#include "scales.cuh"

static constexpr int THREADS = 256;
static constexpr int BLOCKS = 8;  // of threads that a multiprocessor has room for
static constexpr int WORDS = 2;   // of codes, eight each, that a thread turns into elements

// Eight elements from four bytes of codes. All threads of a warp take part: each holds the table's value of its lane.
static __device__ __forceinline__ void elements(float (&value)[8], u32 word, float scale, float entry, u32 low_first) {
    // Element 2j in the lower nibble of byte j, 2j + 1 in the upper.
    if (!low_first) word = (word & 0x0f0f0f0fu) << 4 | (word >> 4 & 0x0f0f0f0fu);
#pragma unroll
    for (int j = 0; j < 8; j++) value[j] = __fmul_rn(__shfl_sync(~0u, entry, word >> (4 * j), 16), scale);
}

template <class T>
static __device__ __forceinline__ void put(typename T::storage* out, const float (&value)[8]) {
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

// A block of threads turns its share of the codes, all of which are on their way at once, into elements, and ends: the next
// block's codes are on their way by then, which keeps more of them so than one block that goes on would.
template <class T>
static __device__ __forceinline__ void dequantize_flat(const Flat& p) {
    typename T::storage* const out = static_cast<typename T::storage*>(p.out);
    const u64 start = static_cast<u64>(blockIdx.x) * (THREADS * WORDS * 8), whole = p.count / 8 * 8;
    if (start >= p.count) return;
    const float entry = __ldg(p.codebook + threadIdx.x % 16);
    u32 word[WORDS] = {};
    float scale[WORDS] = {};
    auto place = [&](int j) { return start + (j * THREADS + threadIdx.x) * 8; };
#pragma unroll
    for (int j = 0; j < WORDS; j++) {
        const u64 i = place(j);
        if (i < whole) {
            word[j] = __ldcs(reinterpret_cast<const u32*>(p.codes + (p.first + i) / 2));
            scale[j] = scale_of(p.scales, static_cast<u32>((p.first + i) >> p.block_shift));
        }
    }
    // What is written may still be read until then.
    end_of_overlap();
#pragma unroll
    for (int j = 0; j < WORDS; j++) {
        float value[8];
        elements(value, word[j], scale[j], entry, p.low_first);
        const u64 i = place(j);
        if (i < whole) put<T>(out + i, value);
    }
    const u64 i = whole + threadIdx.x;
    if (blockIdx.x == 0 && i < p.count) {
        u32 byte = p.codes[(p.first + i) / 2], code = ((i & 1) == p.low_first ? byte >> 4 : byte) & 15;
        out[i] = T::narrow(__fmul_rn(p.codebook[code],
                                     scale_of(p.scales, static_cast<u32>((p.first + i) >> p.block_shift))));
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
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                  \
        codebook_dequantize_flat_##name(const __grid_constant__ Together p) {                                      \
        dequantize_flat<type>(p.parts[blockIdx.y]);                                                                \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                          \
        codebook_dequantize_any_##name(type::storage* out, const u8* codes, const float* codebook, Scales scales,  \
                                       u64 first_row, u64 rows, u32 cols, u32 block, u32 row_blocks,               \
                                       u32 low_first) {                                                            \
        dequantize_any<type>(out, codes, codebook, scales, first_row, rows, cols, block, row_blocks, low_first);   \
    }
KERNELS(f32, F32)
KERNELS(f16, F16)
KERNELS(bf16, BF16)
