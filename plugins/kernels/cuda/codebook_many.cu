// Y = X · Wᵀ for many rows of X and W in a block codebook of 4 bits, on Hopper's warpgroup products.
// targets: sm_90a
#include "numbers.cuh"
#include "scales.cuh"
#include "hopper.cuh"

// A block computes 128 rows of W times TOKENS rows of X. One warp copies tiles of both into a ring of stages; two
// warpgroups of 64 rows each turn codes into elements in registers, as the A operand of a product whose B operand is the
// tile of X in shared memory. While the tensor cores work on one step, the next step's elements are made. W is read once
// a tile of X, and no dequantised element ever leaves a register.
//
// An element is a table value times a scale in f32, rounded once. The table holds pairs in f16, of a power of two of
// which the largest value is between 1 and 2 (the scale makes up for it): what that loses is an eighth of bf16's own
// rounding, and it halves the traffic of shared memory, which the tensor cores' operands want for themselves.

static constexpr int ROWS = 128;
static constexpr int DEPTH = 64;                     // K a stage
static constexpr int TABLE_BYTES = 256 * 256;        // pairs of f16, a copy a lane, each pair's 256 bytes after the last's
static constexpr int W_BYTES = ROWS * DEPTH / 2;
static constexpr int Y_PITCH = ROWS * 2 + 16;

struct Many {
    TensorMap x, w;
    u16* y;          // [m, n], or null when K is split
    float* partial;  // [splits, m, n]
    const float* codebook;
    Scales scales;
    u32 m, n, k;
    u32 scale_stride, block_shift, low_first;
    u32 m_tiles, n_tiles, splits;
    u32 stages;
};

template <class T, int TOKENS>
static __device__ __forceinline__ void product(float (&d)[TOKENS / 2], const u32 (&a)[4], u64 b, u32 scale) {
    if constexpr (T::BRAIN)
        product_bf16(d, a, b, scale);
    else
        product_f16(d, a, b, scale);
}

// PARTS: pairs of warpgroups that take steps in turn, 2 where few rows of X leave registers for it; what one multiplies is
// little then, and making elements is what takes time.
//
// Scales of two rows of W for one step, fetched ahead of their use.
struct RowScales {
    float scale[2];
    u32 code[2];
};

template <class T, int TOKENS, int PARTS>
static __device__ __forceinline__ void many(const Many& p) {
    constexpr int THREADS = 256 * PARTS + 128;
    constexpr int X_BYTES = TOKENS * DEPTH * 2;
    constexpr int STAGE_BYTES = X_BYTES + W_BYTES;
    constexpr int SUMS = TOKENS / 2;
    extern __shared__ __align__(1024) u8 shared[];
    u8* const table = shared;
    u8* const ring = shared + TABLE_BYTES;
    float* const second_table = reinterpret_cast<float*>(ring + p.stages * STAGE_BYTES);
    const u32 full = shared_address(second_table + 256), empty = full + 8 * p.stages;

    // Tiles of X in panels of 8, so that the blocks at work share few tiles of both operands.
    u32 panel = blockIdx.x / (8 * p.n_tiles), rest = blockIdx.x % (8 * p.n_tiles);
    u32 width = min(8u, p.m_tiles - panel * 8);
    const u32 m0 = (panel * 8 + rest % width) * TOKENS, n0 = rest / width * ROWS;
    const u32 all_steps = (p.k + DEPTH - 1) / DEPTH;
    const u32 first_step = all_steps * blockIdx.y / p.splits, last_step = all_steps * (blockIdx.y + 1) / p.splits;

    if (threadIdx.x == 0) {
        for (u32 i = 0; i < p.stages; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        prefetch_map(&p.x);
        prefetch_map(&p.w);
    }
    float unit;
    {
        u32 lane = threadIdx.x % 32;
        float value = __ldg(p.codebook + lane % 16);
        u32 most = __reduce_max_sync(~0u, __float_as_uint(fabsf(value))) & 0x7f800000;
        // Tables of nothing but zeros, subnormal, endless or undefined values are taken as they are.
        unit = most == 0 || most >= 0x7e800000 ? 1 : __uint_as_float(most);
        u32 bits = F16::narrow(__fdiv_rn(value, unit));
        for (u32 byte = threadIdx.x / 32; byte < 256; byte += THREADS / 32) {
            u32 high = __shfl_sync(~0u, bits, byte >> 4), low = __shfl_sync(~0u, bits, byte & 15);
            *reinterpret_cast<u32*>(table + byte * 256 + lane * 4) = p.low_first ? low | high << 16 : high | low << 16;
        }
        if (!p.scales.plain && threadIdx.x < 256) second_table[threadIdx.x] = __ldg(p.scales.table + threadIdx.x);
    }
    __syncthreads();

    if (threadIdx.x >= 256 * PARTS) {
        give_registers<PARTS == 1 ? 40 : 24>();
        if (threadIdx.x == 256 * PARTS) {
            u32 stage = 0, phase = 1;
            for (u32 step = first_step; step < last_step; step++) {
                barrier_wait(empty + 8 * stage, phase);
                u32 to = shared_address(ring + stage * STAGE_BYTES), barrier = full + 8 * stage;
                barrier_expect(barrier, STAGE_BYTES);
                copy_box(to, &p.x, barrier, step * DEPTH, m0);
                copy_box(to + X_BYTES, &p.w, barrier, step * (DEPTH / 2), n0);
                if (++stage == p.stages) stage = 0, phase ^= 1;
            }
        }
        return;
    }
    // All together not more than the block was started with: 384 times 168, or 640 times 96.
    take_registers<PARTS == 1 ? 232 : 112>();

    const u32 part = threadIdx.x / 256, warp = threadIdx.x / 32 % 8, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // A pair's address is put together from bytes: byte t of a word times 256, and the lane's place.
    const u32 place_of_lane = lane * 4, choice = 0x5504 | t << 4;
    const u32 row = warp * 16 + g;        // and row + 8
    const float offset = p.scales.plain ? 0 : __ldg(p.scales.offset);

    auto fetch = [&](RowScales& to, u32 step) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 n = min(n0 + row + 8 * i, p.n - 1), k = step * DEPTH;
            to.scale[i] = 0;
            to.code[i] = 256;
            if (step < last_step) {
                u32 block = (n * p.scale_stride + k) >> p.block_shift;
                if (p.scales.plain) {
                    to.scale[i] = __ldg(p.scales.plain + block);
                } else {
                    to.code[i] = __ldg(p.scales.codes + block);
                    to.scale[i] = __ldg(p.scales.second + block / p.scales.second_block);
                }
            }
        }
    };
    auto decode = [&](const u8* stage, const RowScales& scales, u32 (&a)[4][4]) {
        float scale[2];
#pragma unroll
        for (int i = 0; i < 2; i++)
            scale[i] = scales.code[i] < 256
                           ? __fadd_rn(__fmul_rn(second_table[scales.code[i]], scales.scale[i]), offset)
                           : scales.scale[i];
#pragma unroll
        for (int i = 0; i < 2; i++) scale[i] = __fmul_rn(scale[i], unit);
        const uint4* rows = reinterpret_cast<const uint4*>(stage + X_BYTES + row * (DEPTH / 2));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint4 four = rows[i * 8 * (DEPTH / 32) + half];
                u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (int word = 0; word < 4; word++) {
                    u32 pair = *reinterpret_cast<const u32*>(table + __byte_perm(words[word], place_of_lane, choice));
                    float first = F16::widen(static_cast<u16>(pair)), second = F16::widen(static_cast<u16>(pair >> 16));
                    a[half * 2 + word / 2][i + word % 2 * 2] =
                        T::narrow2(__fmul_rn(first, scale[i]), __fmul_rn(second, scale[i]));
                }
            }
    };

    float sum[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = 0;
    u32 stage = part, phase = 0, previous = 0;
    auto next_stage = [&] {
        previous = stage;
        stage += PARTS;
        if (stage >= p.stages) stage -= p.stages, phase ^= 1;
    };
    auto multiply = [&](const u8* at, const u32 (&a)[4][4]) {
        products_fence();
        u64 x = tile_descriptor(shared_address(at));
#pragma unroll
        for (int i = 0; i < 4; i++) product<T, TOKENS>(sum, a[i], x + 2 * i, 1);
        products_commit();
    };
    if constexpr (PARTS == 1) {
        RowScales even_scales, odd_scales;
        fetch(even_scales, first_step);
        fetch(odd_scales, first_step + 1);
        u32 even[4][4], odd[4][4];
        auto advance = [&](u32 step, RowScales& scales, u32 (&a)[4][4]) {
            barrier_wait(full + 8 * stage, phase);
            const u8* at = ring + stage * STAGE_BYTES;
            decode(at, scales, a);
            fetch(scales, step + 2);
            multiply(at, a);
            // The step before is done: its stage may be filled again.
            products_wait<1>();
            if (step > first_step && lane == 0) barrier_arrive(empty + 8 * previous);
            next_stage();
        };
        u32 step = first_step;
        for (; step + 1 < last_step; step += 2) {
            advance(step, even_scales, even);
            advance(step + 1, odd_scales, odd);
        }
        if (step < last_step) advance(step, even_scales, even);
        products_wait<0>();
    } else {
        RowScales scales;
        fetch(scales, first_step + part);
        for (u32 step = first_step + part; step < last_step; step += PARTS) {
            barrier_wait(full + 8 * stage, phase);
            const u8* at = ring + stage * STAGE_BYTES;
            u32 a[4][4];
            decode(at, scales, a);
            fetch(scales, step + PARTS);
            multiply(at, a);
            products_wait<0>();
            if (lane == 0) barrier_arrive(empty + 8 * stage);
            next_stage();
        }
        // The second part's sums go to the first, through the ring that both are through with.
        float* other = reinterpret_cast<float*>(ring) + threadIdx.x % 256;
        asm volatile("bar.sync 1, 512;" ::: "memory");
        if (part == 1) {
#pragma unroll
            for (int i = 0; i < SUMS; i++) other[256 * i] = sum[i];
        }
        asm volatile("bar.sync 1, 512;" ::: "memory");
        if (part == 1) return;
#pragma unroll
        for (int i = 0; i < SUMS; i++) sum[i] += other[256 * i];
    }

    if (p.splits > 1) {
        float* out = p.partial + static_cast<u64>(blockIdx.y) * p.m * p.n;
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            u32 n = n0 + row + (i & 2 ? 8 : 0), m = m0 + i / 4 * 8 + 2 * t + (i & 1);
            if (n < p.n && m < p.m) out[static_cast<u64>(m) * p.n + n] = sum[i];
        }
        return;
    }
    // Both warpgroups are through with the ring: it takes the result, turned to rows of Y.
    asm volatile("bar.sync 1, 256;" ::: "memory");
    {
        u32 tile = lane / 8, to = shared_address(ring) + (lane % 8 + tile / 2 * 8) * Y_PITCH + warp * 32 + tile % 2 * 16;
#pragma unroll
        for (int i = 0; i < SUMS; i += 8)
            store_transposed(to + i / 4 * 8 * Y_PITCH, T::narrow2(sum[i], sum[i + 1]), T::narrow2(sum[i + 2], sum[i + 3]),
                             T::narrow2(sum[i + 4], sum[i + 5]), T::narrow2(sum[i + 6], sum[i + 7]));
    }
    asm volatile("bar.sync 1, 256;" ::: "memory");
    u32 rows_left = min(static_cast<u32>(TOKENS), p.m - m0), columns_left = min(static_cast<u32>(ROWS), p.n - n0);
    for (u32 i = threadIdx.x; i < rows_left * (ROWS / 8); i += 256) {
        u32 m = i / (ROWS / 8), n = i % (ROWS / 8) * 8;
        const u8* from = ring + m * Y_PITCH + n * 2;
        u16* to = p.y + static_cast<u64>(m0 + m) * p.n + n0 + n;
        if (n + 8 <= columns_left && p.n % 8 == 0)
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        else
            for (u32 j = 0; j < 8 && n + j < columns_left; j++) to[j] = reinterpret_cast<const u16*>(from)[j];
    }
}

// The parts of a split K, added in order.
template <class T>
static __device__ __forceinline__ void add(u16* y, const float* partial, u64 count, u32 splits) {
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
         i += static_cast<u64>(gridDim.x) * blockDim.x) {
        float sum = partial[i];
        for (u32 split = 1; split < splits; split++) sum += partial[split * count + i];
        y[i] = T::narrow(sum);
    }
}

#define KERNEL(name, type, tokens, parts)                                                   \
    extern "C" __global__ void __launch_bounds__(256 * parts + 128, 1)                      \
        codebook_many_##name##_##tokens(const __grid_constant__ Many p) {                   \
        many<type, tokens, parts>(p);                                                       \
    }
#define KERNELS(name, type)                                                                 \
    KERNEL(name, type, 32, 2)                                                               \
    KERNEL(name, type, 64, 2)                                                               \
    KERNEL(name, type, 128, 2)                                                              \
    KERNEL(name, type, 256, 1)                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                       \
        codebook_many_add_##name(u16* y, const float* partial, u64 count, u32 splits) {     \
        add<type>(y, partial, count, splits);                                               \
    }
KERNELS(bf16, BF16)
KERNELS(f16, F16)
