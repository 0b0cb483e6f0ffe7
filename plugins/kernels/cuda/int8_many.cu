// Y = X · Wᵀ for LLM.int8() on Hopper's warpgroup products: integers, dequantised in registers, outliers on top.
// targets: sm_90a
#include "numbers.cuh"
#include "hopper.cuh"
#include "overlap.cuh"

// A block computes 128 rows of W times TOKENS rows of X: one warp copies tiles into a ring of stages, two warpgroups of
// 64 rows each multiply. When K is through, the i32 sums become f32 values of the output's type, and the same ring
// brings the outlier columns (their number is read from device memory) for products in floating point on top. Those of W,
// where they are few, are gathered by warps that have nothing else to do meanwhile. Steps of outlier columns alone, whose
// codes are all zeros, are left out: where activations are far from normal, that is most of them. Where there are few
// tiles, the blocks of a cluster share a tile's steps, and the first adds what the others found.

static constexpr int ROWS = 128;
static constexpr int DEPTH = 128;         // codes a stage and row; 64 elements of outlier columns are as many bytes
static constexpr int W_BYTES = ROWS * DEPTH;
static constexpr int FEW_OUTLIERS = 64;
static constexpr int OUTLIER_BYTES = ROWS * FEW_OUTLIERS * 2;
static constexpr int GATHERING = 96;  // threads
static constexpr int THREADS = 384;
static constexpr int Y_PITCH = ROWS * 2 + 16;
static constexpr float PRODUCT_STEP = 1.0f / (127.0f * 127.0f);

struct Int8 {
    TensorMap x, w, outlier_x, outlier_w;
    u16* y;  // [m, n]
    const float* x_scales;
    const float* w_scales;
    const u32* outliers;  // the number of outlier columns
    const u32* flags;     // a bit a column, set for an outlier
    const u32* list;      // the outlier columns, ascending
    const signed char* codes;  // of W, [n, k]
    u32 m, n, k;
    u32 m_tiles, n_tiles;
    u32 stages;
    u32 split;  // blocks a cluster, which share the steps of a tile
};

template <class T, int TOKENS>
static __device__ __forceinline__ void product(float (&d)[TOKENS / 2], const u32 (&a)[4], u64 b) {
    if constexpr (T::BRAIN)
        product_bf16(d, a, b, 1);
    else
        product_f16(d, a, b, 1);
}

// A value of the output's type. For bf16 in one piece: ptxas takes apart what is written as a conversion and a shift, and
// then lets no two products of the kernel overlap (C7514).
template <class T>
static __device__ __forceinline__ float rounded(float value) {
    if constexpr (!T::BRAIN) return T::widen(T::narrow(value));
    asm volatile(
        "{\n"
        ".reg .b16 high, low;\n"
        "cvt.rn.bf16.f32 high, %0;\n"
        "mov.b16 low, 0;\n"
        "mov.b32 %0, {low, high};\n"
        "}"
        : "+f"(value));
    return value;
}

// Four 8 x 8 tiles of 16-bit elements from a tile in the 128-byte swizzle: this lane's row, and its column in 16 bytes.
static __device__ __forceinline__ void load_tiles(u32 (&to)[4], u32 tile, u32 row, u32 column) {
    u32 address = tile + row * 128 + ((column ^ row % 8) << 4);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// Up to FEW_OUTLIERS columns of W from row n0 on, dequantised, and zeros to the right of them, in the 128-byte swizzle.
template <class T>
static __device__ __forceinline__ void gather(const Int8& p, u8* tile, u32 n0, u32 outliers, u32 thread) {
    for (u32 i = thread; i < ROWS * (FEW_OUTLIERS / 8); i += GATHERING) {
        const u32 row = i % ROWS, first = i / ROWS * 8, n = min(n0 + row, p.n - 1);
        uint4 eight = make_uint4(0, 0, 0, 0);
        if (first < outliers) {
            const float scale = __ldg(p.w_scales + n);
            const signed char* const codes = p.codes + static_cast<u64>(n) * p.k;
            float value[8];
#pragma unroll
            for (int j = 0; j < 8; j++)
                value[j] = first + j < outliers ? static_cast<float>(__ldg(codes + __ldcg(p.list + first + j))) : 0;
#pragma unroll
            for (int j = 0; j < 8; j++) value[j] = __fmul_rn(__fmul_rn(value[j], scale), 1.0f / 127.0f);
            eight = make_uint4(T::narrow2(value[0], value[1]), T::narrow2(value[2], value[3]),
                               T::narrow2(value[4], value[5]), T::narrow2(value[6], value[7]));
        }
        *reinterpret_cast<uint4*>(tile + row * 128 + ((first / 8 ^ row % 8) << 4)) = eight;
    }
}

template <class T, int TOKENS>
static __device__ __forceinline__ void multiply(const Int8& p) {
    constexpr int X_BYTES = TOKENS * DEPTH;
    constexpr int STAGE_BYTES = X_BYTES + W_BYTES;
    constexpr int SUMS = TOKENS / 2;
    extern __shared__ __align__(1024) u8 shared[];
    u8* const ring = shared;
    u8* const outlier_w = shared + p.stages * STAGE_BYTES;
    u32* const others = reinterpret_cast<u32*>(outlier_w + OUTLIER_BYTES);  // of the cluster: [split - 1][SUMS][256]
    float* const x_scales = reinterpret_cast<float*>(others + (p.split - 1) * SUMS * 256);
    const u32 full = shared_address(x_scales + TOKENS), empty = full + 8 * p.stages, gathered = empty + 8 * p.stages;
    const u32 others_there = gathered + 8;
    // How many steps are taken, and which.
    u32* const live_steps = reinterpret_cast<u32*>(x_scales + TOKENS) + 4 * p.stages + 4;
    u16* const live = reinterpret_cast<u16*>(live_steps + 1);

    // Tiles of X in panels of 8, so that the blocks at work share few tiles of both operands.
    const u32 rank = p.split > 1 ? rank_in_cluster() : 0, block = (blockIdx.x - rank) / p.split;
    u32 panel = block / (8 * p.n_tiles), rest = block % (8 * p.n_tiles);
    u32 width = min(8u, p.m_tiles - panel * 8);
    const u32 m0 = (panel * 8 + rest % width) * TOKENS, n0 = rest / width * ROWS;
    const u32 all_steps = (p.k + DEPTH - 1) / DEPTH;

    if (threadIdx.x == 0) {
        for (u32 i = 0; i < p.stages; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 8);
        }
        barrier_init(gathered, GATHERING);
        if (p.split > 1) barrier_init(others_there, (p.split - 1) * 256);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        prefetch_map(&p.x);
        prefetch_map(&p.w);
    }
    end_of_overlap();
    const u32 all_outliers = __ldcg(p.outliers), outliers = rank == 0 ? all_outliers : 0;
    for (u32 i = threadIdx.x; i < TOKENS; i += THREADS) x_scales[i] = m0 + i < p.m ? __ldcg(p.x_scales + m0 + i) : 0;
    if (threadIdx.x < 32) {
        u32 count = 0;
        for (u32 first = 0; first < all_steps; first += 32) {
            const u32 step = first + threadIdx.x;
            bool taken = step < all_steps;
            // Columns beyond the last are no outliers, so what is not whole is taken.
            if (taken && all_outliers >= DEPTH && (step + 1) * DEPTH <= p.k) {
                u32 all = ~0u;
                for (u32 i = 0; i < DEPTH / 32; i++) all &= __ldcg(p.flags + step * (DEPTH / 32) + i);
                taken = all != ~0u;
            }
            const u32 which = __ballot_sync(~0u, taken);
            if (taken) live[count + __popc(which & ((1u << threadIdx.x) - 1))] = static_cast<u16>(step);
            count += __popc(which);
        }
        if (threadIdx.x == 0) *live_steps = count;
    }
    __syncthreads();
    // Before another block's shared memory is written it must have started.
    if (p.split > 1) cluster_arrive(), cluster_wait();
    const u32 first_step = *live_steps * rank / p.split, steps = *live_steps * (rank + 1) / p.split - first_step;
    const bool few_outliers = outliers <= FEW_OUTLIERS;

    if (threadIdx.x >= 256) {
        give_registers<40>();
        if (threadIdx.x == 256) {
            u32 stage = 0, phase = 1;
            for (u32 step = 0; step < steps + (outliers + 63) / 64; step++) {
                barrier_wait(empty + 8 * stage, phase);
                u32 to = shared_address(ring + stage * STAGE_BYTES), barrier = full + 8 * stage;
                const bool codes = step < steps, of_w = codes || !few_outliers;
                barrier_expect(barrier, X_BYTES + (of_w ? W_BYTES : 0));
                u32 at = codes ? live[first_step + step] * DEPTH : (step - steps) * 64;
                copy_box(to, codes ? &p.x : &p.outlier_x, barrier, at, m0);
                if (of_w) copy_box(to + X_BYTES, codes ? &p.w : &p.outlier_w, barrier, at, n0);
                if (++stage == p.stages) stage = 0, phase ^= 1;
            }
        } else if (threadIdx.x >= THREADS - GATHERING && outliers && few_outliers) {
            gather<T>(p, outlier_w, n0, outliers, threadIdx.x - (THREADS - GATHERING));
            barrier_arrive(gathered);
        }
        return;
    }
    take_registers<232>();

    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32 row = warp * 16 + g;  // and row + 8
    u32 stage = 0, phase = 0, previous = 0;
    int sum[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = 0;
    for (u32 step = 0; step < steps; step++) {
        barrier_wait(full + 8 * stage, phase);
        u32 at = shared_address(ring + stage * STAGE_BYTES);
        u64 x = tile_descriptor(at), w = tile_descriptor(at + X_BYTES + warp / 4 * (64 * DEPTH));
        products_fence();
#pragma unroll
        for (int i = 0; i < 4; i++) product_s8(sum, w + 2 * i, x + 2 * i, 1);
        products_commit();
        // The step before is done: its stage may be filled again.
        products_wait<1>();
        if (step > 0 && lane == 0) barrier_arrive(empty + 8 * previous);
        previous = stage;
        if (++stage == p.stages) stage = 0, phase ^= 1;
    }
    products_wait<0>();
    if (steps > 0 && lane == 0) barrier_arrive(empty + 8 * previous);

    if (rank > 0) {
#pragma unroll
        for (int i = 0; i < SUMS; i++) store_to_first(others + ((rank - 1) * SUMS + i) * 256 + threadIdx.x, sum[i]);
        arrive_at_first(others_there);
        return;
    }
    if (p.split > 1) {
        barrier_wait_cluster(others_there, 0);
        for (u32 other = 0; other < p.split - 1; other++)
#pragma unroll
            for (int i = 0; i < SUMS; i++) sum[i] += others[(other * SUMS + i) * 256 + threadIdx.x];
    }

    float value[SUMS];
    {
        float w_scale[2];
#pragma unroll
        for (int i = 0; i < 2; i++) w_scale[i] = __ldg(p.w_scales + min(n0 + row + 8 * i, p.n - 1));
#pragma unroll
        for (int i = 0; i < SUMS; i++) {
            float scale = __fmul_rn(x_scales[i / 4 * 8 + 2 * t + i % 2], w_scale[i / 2 % 2]);
            value[i] = __fmul_rn(__fmul_rn(__int2float_rn(sum[i]), scale), PRODUCT_STEP);
        }
    }
    // The integer part is rounded to the output's type before the outliers are added.
    if (outliers)
#pragma unroll
        for (int i = 0; i < SUMS; i++) value[i] = rounded<T>(value[i]);
    for (u32 column = 0; column < outliers; column += 64) {
        barrier_wait(full + 8 * stage, phase);
        if (few_outliers) barrier_wait(gathered, 0);
        const u32 x = shared_address(ring + stage * STAGE_BYTES);
        const u32 w = few_outliers ? shared_address(outlier_w) : x + X_BYTES;
        u32 a[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) load_tiles(a[i], w, warp * 16 + lane % 16, i * 2 + lane / 16);
        const u64 tile = tile_descriptor(x);
        products_fence();
#pragma unroll
        for (int i = 0; i < 4; i++) product<T, TOKENS>(value, a[i], tile + 2 * i);
        products_commit();
        products_wait<0>();
        if (lane == 0) barrier_arrive(empty + 8 * stage);
        if (++stage == p.stages) stage = 0, phase ^= 1;
    }

    // Both warpgroups are through with the ring: it takes the result, turned to rows of Y.
    asm volatile("bar.sync 1, 256;" ::: "memory");
    {
        u32 tile = lane / 8, to = shared_address(ring) + (lane % 8 + tile / 2 * 8) * Y_PITCH + warp * 32 + tile % 2 * 16;
#pragma unroll
        for (int i = 0; i < SUMS; i += 8)
            store_transposed(to + i / 4 * 8 * Y_PITCH, T::narrow2(value[i], value[i + 1]),
                             T::narrow2(value[i + 2], value[i + 3]), T::narrow2(value[i + 4], value[i + 5]),
                             T::narrow2(value[i + 6], value[i + 7]));
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

template <class T, int TOKENS>
static __device__ __forceinline__ void many(const Int8& p) {
    multiply<T, TOKENS>(p);
    // A cluster's blocks end together: one that has ended cannot be written to.
    __syncwarp();
    if (p.split > 1) cluster_arrive(), cluster_wait();
}

#define KERNEL(name, type, tokens)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                \
        int8_many_##name##_##tokens(const __grid_constant__ Int8 p) {                       \
        many<type, tokens>(p);                                                              \
    }
#define KERNELS(name, type) \
    KERNEL(name, type, 16)  \
    KERNEL(name, type, 32)  \
    KERNEL(name, type, 64)  \
    KERNEL(name, type, 128) \
    KERNEL(name, type, 256)
KERNELS(bf16, BF16)
KERNELS(f16, F16)
