// Y = X · Wᵀ for many rows of X and W in a block codebook of 4 bits, on Hopper's warpgroup products.
// targets: sm_90a
#include "numbers.cuh"
#include "scales.cuh"
#include "hopper.cuh"
#include "overlap.cuh"

// A block computes 128 rows of W times TOKENS rows of X. One warpgroup has tiles of both copied into a ring of stages and
// puts a scale a row beside them; two warpgroups of 64 rows each turn codes into elements in registers, as the A operand
// of a product whose B operand is the tile of X in shared memory. While the tensor cores work on one step, the next
// step's elements are made. W is read once a tile of X, and no dequantised element ever leaves a register.
//
// An element is a table value, rounded to the element type, times a scale, rounded once more: the scale is the sum of two
// elements, so that pairs of elements are made by one product and one fused product and sum. The table's values are
// taken as multiples of a power of two of which the largest is between 1 and 2, and the scale makes up for it: then f16
// reaches as far as it must.

static constexpr int ROWS = 128;
static constexpr int DEPTH = 64;                     // K a stage
static constexpr int TABLE_BYTES = 256 * 256;        // pairs, a copy a lane, each pair's 256 bytes after the last's
static constexpr int W_BYTES = ROWS * DEPTH / 2;
static constexpr int SCALE_BYTES = ROWS * 8;         // two pairs of elements a row, each twice the same element
static constexpr int AHEAD = 4;                      // steps whose scales are on their way
static constexpr int CHUNK = 32;                     // rows of Y that a warp puts in order at a time
static constexpr int Y_PITCH = 48;                   // of 16 elements, so that no two of 8 rows meet in a bank

struct Many {
    TensorMap x, w;
    u16* y;          // [m, n], or null when K is split
    float* partial;  // [splits, m, n]
    const float* codebook;
    Scales scales;
    u32 m, n, k;
    u32 scale_stride, block_shift, second_shift, low_first;
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

// Two products of elements, each rounded once, and such with a sum before it.
template <class T>
static __device__ __forceinline__ u32 multiply2(u32 a, u32 b) {
    u32 d;
    if constexpr (T::BRAIN)
        asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    else
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
template <class T>
static __device__ __forceinline__ u32 multiply_add2(u32 a, u32 b, u32 c) {
    u32 d;
    if constexpr (T::BRAIN)
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    else
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// A tile of Y, or with K split a part of its sums.
struct Item {
    u32 m0, n0, split, first_step, last_step;
};

template <int TOKENS>
static __device__ __forceinline__ Item item_at(const Many& p, u32 index) {
    const u32 tiles = p.m_tiles * p.n_tiles, split = index / tiles, tile = index % tiles;
    // Tiles of X in panels of 8, so that the blocks at work share few tiles of both operands.
    const u32 panel = tile / (8 * p.n_tiles), rest = tile % (8 * p.n_tiles), width = min(8u, p.m_tiles - panel * 8);
    const u32 steps = (p.k + DEPTH - 1) / DEPTH;
    return {(panel * 8 + rest % width) * TOKENS, rest / width * ROWS, split, steps * split / p.splits,
            steps * (split + 1) / p.splits};
}

// Where in the ring a step lies, and which time it is there.
struct Place {
    u32 stage, phase;
    __device__ __forceinline__ void advance(u32 steps, u32 stages) {
        for (stage += steps; stage >= stages; stage -= stages) phase ^= 1;
    }
};

// PARTS: pairs of warpgroups that take steps in turn, 2 where few rows of X leave registers for it; what one multiplies is
// little then, and making elements is what takes time. With 1, a block goes on to another item, which is on its way while
// the sums of the one before are written.
template <class T, int TOKENS, int PARTS>
static __device__ __forceinline__ void many(const Many& p) {
    constexpr int THREADS = 256 * PARTS + 128;
    constexpr int X_BYTES = TOKENS * DEPTH * 2;
    constexpr int STAGE_BYTES = X_BYTES + W_BYTES + SCALE_BYTES;
    constexpr int SUMS = TOKENS / 2;
    extern __shared__ __align__(1024) u8 shared[];
    u8* const table = shared;
    u8* const ring = shared + TABLE_BYTES;
    float* const second_table = reinterpret_cast<float*>(ring + p.stages * STAGE_BYTES);
    const u32 full = shared_address(second_table + 256), empty = full + 8 * p.stages;

    u8* const all_staging = ring + p.stages * STAGE_BYTES + 1024 + 128;  // [8][CHUNK][Y_PITCH], behind the barriers
    const u32 items = p.m_tiles * p.n_tiles * p.splits;

    if (threadIdx.x == 0) {
        for (u32 i = 0; i < p.stages; i++) {
            barrier_init(full + 8 * i, 1 + ROWS);
            barrier_init(empty + 8 * i, 256);
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
        u32 bits = T::narrow(__fdiv_rn(value, unit));
        for (u32 byte = threadIdx.x / 32; byte < 256; byte += THREADS / 32) {
            u32 high = __shfl_sync(~0u, bits, byte >> 4), low = __shfl_sync(~0u, bits, byte & 15);
            *reinterpret_cast<u32*>(table + byte * 256 + lane * 4) = p.low_first ? low | high << 16 : high | low << 16;
        }
        if (!p.scales.plain && threadIdx.x < 256) second_table[threadIdx.x] = __ldg(p.scales.table + threadIdx.x);
    }
    end_of_overlap();
    __syncthreads();

    if (threadIdx.x >= 256 * PARTS) {
        give_registers<PARTS == 1 ? 40 : 32>();
        // A thread brings the scales of one row.
        const u32 thread = threadIdx.x - 256 * PARTS;
        const float offset = p.scales.plain ? 0 : __ldg(p.scales.offset);
        Place at = {0, 1};
        for (u32 index = blockIdx.x; index < items; index += gridDim.x) {
            const Item item = item_at<TOKENS>(p, index);
            const u32 row_start = min(item.n0 + thread, p.n - 1) * p.scale_stride;
            float scale[AHEAD];
            u32 code[AHEAD];
            auto fetch = [&](int i, u32 step) {
                if (step >= item.last_step) return;
                const u32 block = (row_start + step * DEPTH) >> p.block_shift;
                if (p.scales.plain) {
                    scale[i] = __ldg(p.scales.plain + block);
                } else {
                    code[i] = __ldg(p.scales.codes + block);
                    scale[i] = __ldg(p.scales.second + (block >> p.second_shift));
                }
            };
#pragma unroll
            for (int i = 0; i < AHEAD; i++) fetch(i, item.first_step + i);
            for (u32 first = item.first_step; first < item.last_step; first += AHEAD)
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    const u32 step = first + i;
                    if (step >= item.last_step) break;
                    barrier_wait(empty + 8 * at.stage, at.phase);
                    u8* const to = ring + at.stage * STAGE_BYTES;
                    const u32 barrier = full + 8 * at.stage;
                    if (thread == 0) {
                        barrier_expect(barrier, X_BYTES + W_BYTES);
                        copy_box(shared_address(to), &p.x, barrier, step * DEPTH, item.m0);
                        copy_box(shared_address(to + X_BYTES), &p.w, barrier, step * (DEPTH / 2), item.n0);
                    }
                    float value = scale[i];
                    if (!p.scales.plain) value = __fadd_rn(__fmul_rn(second_table[code[i]], value), offset);
                    value = __fmul_rn(value, unit);
                    const u16 much = T::narrow(value), little = T::narrow(value - T::widen(much));
                    reinterpret_cast<uint2*>(to + X_BYTES + W_BYTES)[thread] =
                        make_uint2(much * 0x10001u, little * 0x10001u);
                    fetch(i, step + AHEAD);
                    barrier_arrive(barrier);
                    at.advance(1, p.stages);
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
    auto decode = [&](const u8* stage, u32 (&a)[4][4]) {
        const uint2* const scales = reinterpret_cast<const uint2*>(stage + X_BYTES + W_BYTES) + row;
        const uint4* const rows = reinterpret_cast<const uint4*>(stage + X_BYTES + row * (DEPTH / 2));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint2 scale = scales[8 * i];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint4 four = rows[i * 8 * (DEPTH / 32) + half];
                const u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (int word = 0; word < 4; word++) {
                    const u32 pair =
                        *reinterpret_cast<const u32*>(table + __byte_perm(words[word], place_of_lane, choice));
                    a[half * 2 + word / 2][i + word % 2 * 2] =
                        multiply_add2<T>(pair, scale.x, multiply2<T>(pair, scale.y));
                }
            }
        }
    };

    float sum[SUMS];
    auto multiply = [&](const u8* stage, const u32 (&a)[4][4]) {
        products_fence();
        u64 x = tile_descriptor(shared_address(stage));
#pragma unroll
        for (int i = 0; i < 4; i++) product<T, TOKENS>(sum, a[i], x + 2 * i, 1);
        products_commit();
    };
    auto through_with = [&](u32 stage) { barrier_arrive(empty + 8 * stage); };
    Place at = {part, 0};
    auto multiply_item = [&](const Item& item) {
        if constexpr (PARTS == 1) {
            u32 even[4][4], odd[4][4], previous = 0;
            auto advance = [&](u32 step, u32 (&a)[4][4]) {
                barrier_wait(full + 8 * at.stage, at.phase);
                const u8* stage = ring + at.stage * STAGE_BYTES;
                decode(stage, a);
                multiply(stage, a);
                // The step before is done: its stage may be filled again.
                products_wait<1>();
                if (step > item.first_step) through_with(previous);
                previous = at.stage;
                at.advance(1, p.stages);
            };
            u32 step = item.first_step;
            for (; step + 1 < item.last_step; step += 2) {
                advance(step, even);
                advance(step + 1, odd);
            }
            if (step < item.last_step) advance(step, even);
            products_wait<0>();
            through_with(previous);
        } else {
            for (u32 step = item.first_step + part; step < item.last_step; step += PARTS) {
                barrier_wait(full + 8 * at.stage, at.phase);
                const u8* stage = ring + at.stage * STAGE_BYTES;
                u32 a[4][4];
                decode(stage, a);
                multiply(stage, a);
                products_wait<0>();
                through_with(at.stage);
                at.advance(PARTS, p.stages);
            }
            // The second part's sums go to the first, through the ring that both are through with.
            float* other = reinterpret_cast<float*>(ring) + threadIdx.x % 256;
            asm volatile("bar.sync 1, 512;" ::: "memory");
            if (part == 1) {
#pragma unroll
                for (int i = 0; i < SUMS; i++) other[256 * i] = sum[i];
            }
            asm volatile("bar.sync 1, 512;" ::: "memory");
            if (part == 0) {
#pragma unroll
                for (int i = 0; i < SUMS; i++) sum[i] += other[256 * i];
            }
        }
    };
    auto store_sums = [&](const Item& item) {
        float* out = p.partial + static_cast<u64>(item.split) * p.m * p.n;
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            u32 n = item.n0 + row + (i & 2 ? 8 : 0), m = item.m0 + i / 4 * 8 + 2 * t + (i & 1);
            if (n < p.n && m < p.m) out[static_cast<u64>(m) * p.n + n] = sum[i];
        }
    };
    // The warp's 16 rows of W are 16 neighbours in each row of Y.
    auto store = [&](const Item& item) {
        u8* const staging = all_staging + warp * (CHUNK * Y_PITCH);
        const u32 tile = lane / 8, to = shared_address(staging) + (lane % 8 + tile / 2 * 8) * Y_PITCH + tile % 2 * 16;
        const u32 n = item.n0 + warp * 16 + lane % 2 * 8;
#pragma unroll
        for (int chunk = 0; chunk < TOKENS / CHUNK; chunk++) {
            __syncwarp();
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float* its = sum + chunk * (CHUNK / 2) + half * 8;
                store_transposed(to + half * 16 * Y_PITCH, T::narrow2(its[0], its[1]), T::narrow2(its[2], its[3]),
                                 T::narrow2(its[4], its[5]), T::narrow2(its[6], its[7]));
            }
            __syncwarp();
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const u32 token = half * 16 + lane / 2, m = item.m0 + chunk * CHUNK + token;
                if (m >= p.m) continue;
                const u8* from = staging + token * Y_PITCH + lane % 2 * 16;
                u16* out = p.y + static_cast<u64>(m) * p.n + n;
                if (n + 8 <= p.n && p.n % 8 == 0)
                    *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(from);
                else
                    for (u32 i = 0; i < 8 && n + i < p.n; i++) out[i] = reinterpret_cast<const u16*>(from)[i];
            }
        }
    };
    for (u32 index = blockIdx.x; index < items; index += gridDim.x) {
        const Item item = item_at<TOKENS>(p, index);
#pragma unroll
        for (int i = 0; i < SUMS; i++) sum[i] = 0;
        multiply_item(item);
        if (part == 0) {
            if (p.splits > 1)
                store_sums(item);
            else
                store(item);
        }
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
