// Y = X · Wᵀ for 1 to 16 rows of X and W in a block codebook of 4 bits, blocks of 64: bound by reading W once.
// targets: sm_90
#include "numbers.cuh"
#include "hopper.cuh"
#include "overlap.cuh"
#include "products.cuh"
#include "scales.cuh"

// A block of threads a multiprocessor owns 16-row tiles of W. A tile is cut into steps of 256 columns, and all steps,
// tile after tile, are dealt to the warps in equal runs. Each warp has a pipeline of its own: the copy engine brings
// codes, since the way from shared memory to registers, which the table below keeps busy, is what there is least of.
// (Registers as a pipeline do not work: the loads of all stages share one scoreboard, so waiting for one waits for
// all.) The rows of X lie in shared memory, as many columns at a time as fit.
//
// A byte holds two weights that follow each other in K, which is just what a register of the tensor core's operand
// wants: one lookup in a table of 256 pairs, kept once a lane so that no two lanes meet in a bank. Codes are rounded to
// the element type, products summed in f32, and each block's sum multiplied with its scale in f32. The order of K
// within a block is permuted alike in both operands, so that a lane's codes lie together.

static constexpr int MOST_WARPS = 16;
static constexpr int STEP = 256;
static constexpr int BLOCK = 64;
static constexpr int BLOCKS = STEP / BLOCK;       // a row and step
static constexpr int CODE_BYTES = 16 * STEP / 2;  // a tile and step: 16 rows of 128 bytes in the 128-byte swizzle
static constexpr int COPIES = 8;                  // of the second level's table: one a row that lanes look up at once

// A row's scales of one step are 4 of f32, or 4 codes under one scale of the second level.
enum Stored { PLAIN, CODED };

struct Few {
    TensorMap codes;
    u16* y;
    const u16* x;
    const float* codebook;
    Scales scales;
    u32 m, n, k;
    u32 second_shift;  // of CODED
    u32 low_first;
    u32 pass_steps;  // whose columns of X fit into shared memory
    u32 stages;
    u32 x_apart;  // whether X lies apart from the table
};

// The barriers that were just made are seen by the copy engine.
static __device__ __forceinline__ void barriers_seen() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Past the first-level cache.
static __device__ __forceinline__ void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
static __device__ __forceinline__ void copy4(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
// This thread arrives at the barrier once its copies from before have.
static __device__ __forceinline__ void arrive_after_copies(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// What a kernel before this one may have written while this one ran: not by way of the read-only cache.
static __device__ __forceinline__ uint4 load(const uint4* from) {
    uint4 to;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "l"(from)
                 : "memory");
    return to;
}

// 16 bytes of shared memory where `active`; else `to` stays what it is.
static __device__ __forceinline__ void load16_if(u32* to, const u8* from, bool active) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.u32 p, %5, 0;\n"
        "@p ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
        "}"
        : "+r"(to[0]), "+r"(to[1]), "+r"(to[2]), "+r"(to[3])
        : "r"(shared_address(from)), "r"(static_cast<u32>(active)));
}

// HALVES: 1 for up to 8 rows of X, 2 for up to 16.
template <class T, int HALVES, Stored STORED>
static __device__ __forceinline__ void few(const Few& p) {
    // For few rows of X, the table is spread out: that gives a shorter way to an address (see `pair`), and X may lie in
    // between.
    constexpr int PAIR_PITCH = HALVES == 1 ? 256 : 128;
    constexpr int TABLE_BYTES = 256 * PAIR_PITCH;
    constexpr int SECOND_BYTES = STORED == CODED ? 256 * COPIES * 4 : 0;
    constexpr int SCALE_BYTES = STORED == CODED ? 16 * (4 + 4) : 16 * BLOCKS * 4;
    constexpr int TOGETHER = 2;  // blocks whose products are interleaved, to hide their latency
    const u32 warps = blockDim.x / 32, threads = blockDim.x;
    extern __shared__ __align__(1024) u8 shared[];
    u8* const table = shared;
    u8* const all_codes = shared + TABLE_BYTES;                        // [warps][stages][CODE_BYTES]
    u8* const all_scales = all_codes + warps * p.stages * CODE_BYTES;  // [warps][stages][SCALE_BYTES]
    float* const second_table =
        reinterpret_cast<float*>(all_scales + warps * p.stages * SCALE_BYTES);               // [256][COPIES]
    u8* const all_barriers = reinterpret_cast<u8*>(second_table) + SECOND_BYTES;             // [warps][stages], 8 bytes
    float* const partial = reinterpret_cast<float*>(all_barriers + warps * p.stages * 8);    // [warps][2][m][16]
    u8* const after = reinterpret_cast<u8*>(partial + warps * 2 * 16 * p.m);
    // X is [pass_steps][m][BLOCKS] lines of 128 bytes.
    const bool x_apart = HALVES > 1 || p.x_apart;
    const u32 x_pitch = x_apart ? 128 : 256;
    u8* const x = x_apart ? after + (128 - shared_address(after) % 128) % 128 : table + 128;
    // Of several passes over the columns: [m][16 warps].
    float* const total = reinterpret_cast<float*>(x_apart ? x + p.pass_steps * p.m * BLOCKS * 128 : after);

    const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u8* const ring = all_codes + warp * p.stages * CODE_BYTES;
    u8* const scale_ring = all_scales + warp * p.stages * SCALE_BYTES;
    const u32 barriers = shared_address(all_barriers + warp * p.stages * 8);
    // The tensor core's row g is this row of the tile: then 8-byte reads of 4 rows touch every bank once.
    const u32 row_of_lane = g % 4 * 2 + g / 4;
    const u32 all_tiles = (p.n + 15) / 16, all_steps = p.k / STEP;
    const u32 first_tile = all_tiles * blockIdx.x / gridDim.x, last_tile = all_tiles * (blockIdx.x + 1) / gridDim.x;
    const float offset = STORED == CODED ? __ldg(p.scales.offset) : 0;

    // Tiles and steps done between two barriers, and this warp's run of them. With no more tiles than warps, a run
    // touches two of them at most.
    u32 tile0 = first_tile, step0 = 0, tiles, steps, begin, end;
    auto deal = [&] {
        tiles = min(warps, last_tile - tile0);
        steps = min(p.pass_steps, all_steps - step0);
        begin = tiles * steps * warp / warps;
        end = tiles * steps * (warp + 1) / warps;
    };

    // What is fetched next. A lane copies the scales of one row.
    u32 fetch_left = 0, fetch_tile = 0, fetch_step = 0, fetch_stage = 0, block_at;
    auto seek = [&] {
        // What lies outside of W is not read: its last row stands in.
        const u32 row = min((tile0 + fetch_tile) * 16 + lane % 16, p.n - 1);
        block_at = (row * p.k + (step0 + fetch_step) * STEP) / BLOCK;
    };
    auto fetch = [&] {
        if (fetch_left == 0) return;
        fetch_left--;
        const u32 barrier = barriers + fetch_stage * 8;
        if (lane == 0) {
            barrier_expect(barrier, CODE_BYTES);
            copy_box(shared_address(ring + fetch_stage * CODE_BYTES), &p.codes, barrier,
                     (step0 + fetch_step) * (STEP / 2), (tile0 + fetch_tile) * 16);
        }
        u8* const to = scale_ring + fetch_stage * SCALE_BYTES;
        if constexpr (STORED == PLAIN) {
            if (lane < 16) copy16(to + lane * 16, p.scales.plain + block_at);
        } else {
            copy4(to + lane * 4, lane < 16 ? static_cast<const void*>(p.scales.codes + block_at)
                                           : p.scales.second + (block_at >> p.second_shift));
        }
        arrive_after_copies(barrier);
        block_at += BLOCKS;
        if (++fetch_stage == p.stages) fetch_stage = 0;
        if (++fetch_step == steps) fetch_step = 0, fetch_tile++, seek();
    };
    auto fetch_first = [&] {
        fetch_left = end - begin, fetch_tile = begin / steps, fetch_step = begin % steps;
        seek();
#pragma unroll 1
        for (u32 i = 1; i < p.stages; i++) fetch();
    };
    // A block of a row of X is 8 pieces of 16 bytes, two a lane: the first ones lie together, and the second ones, the
    // other way round in every other row, so that what lanes read together lies in different banks.
    auto copy_x = [&] {
        constexpr int BATCH = 8;  // on their way at once
        const u32 pieces = steps * (STEP / 8);
        const uint4* const from = reinterpret_cast<const uint4*>(p.x + step0 * STEP);
        u32 row = threadIdx.x < pieces ? 0 : p.m, piece = threadIdx.x;
#pragma unroll 1
        while (row < p.m) {
            uint4 values[BATCH];
            u32 to[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                to[i] = ~0u;
                if (row < p.m) {
                    values[i] = load(from + row * (p.k / 8) + piece);
                    to[i] = ((piece / 32 * p.m + row) * BLOCKS + piece % 32 / 8) * x_pitch +
                            (piece % 2 ^ row % 2) * 64 + piece % 8 / 2 * 16;
                    piece += threads;
                    if (piece >= pieces) piece = threadIdx.x, row++;
                }
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++)
                if (to[i] != ~0u) *reinterpret_cast<uint4*>(x + to[i]) = values[i];
        }
    };

    if (lane == 0) {
        prefetch_map(&p.codes);
        for (u32 i = 0; i < p.stages; i++) barrier_init(barriers + i * 8, 32 + 1);
        barriers_seen();
    }
    __syncwarp();
    deal();
    fetch_first();
    {
        u32 bits = T::narrow(__ldg(p.codebook + lane % 16));
        for (u32 i = warp; i < 64; i += warps) {
            u32 byte = i * 4 + lane / 8;
            u32 high = __shfl_sync(~0u, bits, byte >> 4), low = __shfl_sync(~0u, bits, byte & 15);
            u32 both = p.low_first ? low | high << 16 : high | low << 16;
            *reinterpret_cast<uint4*>(table + byte * PAIR_PITCH + lane % 8 * 16) = make_uint4(both, both, both, both);
        }
        if constexpr (STORED == CODED)
            for (u32 i = threadIdx.x; i < 256 * COPIES; i += threads)
                second_table[i] = __ldg(p.scales.table + i / COPIES);
    }
    end_of_overlap();
    copy_x();
    __syncthreads();

    // The pair for a byte of a word. With a pitch of 256, its address is put together from bytes: the lane's place, and
    // above it the byte.
    const u32 place_of_lane = lane * 4;
    auto pair = [&](u32 word, int byte) {
        u32 at;
        if constexpr (PAIR_PITCH == 256)
            at = __byte_perm(word, place_of_lane, 0x5504 | byte << 4);
        else
            at = ((byte == 0 ? word << 7 : word >> (8 * byte - 7)) & 0x7f80) | place_of_lane;
        return *reinterpret_cast<const u32*>(table + at);
    };
    u32 operand[TOGETHER][HALVES][8] = {};  // stays zero where there is no row of X
    float sum[HALVES][4] = {};
    auto multiply_step = [&](const u8* at, const u8* scales_at, u32 step) {
        const u8* const x_of_lane = x + (step * p.m + g) * BLOCKS * x_pitch + t * 16;
        float scale[2][BLOCKS];
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const u8* const its = scales_at + (8 * row + row_of_lane) * (STORED == PLAIN ? 16 : 4);
            if constexpr (STORED == PLAIN) {
                *reinterpret_cast<float4*>(scale[row]) = *reinterpret_cast<const float4*>(its);
            } else {
                const u32 codes = *reinterpret_cast<const u32*>(its);
                const float second = *reinterpret_cast<const float*>(its + 16 * 4);
#pragma unroll
                for (int i = 0; i < BLOCKS; i++)
                    scale[row][i] =
                        __fadd_rn(__fmul_rn(second_table[(codes >> (8 * i) & 255) * COPIES + g], second), offset);
            }
        }
#pragma unroll
        for (int first = 0; first < BLOCKS; first += TOGETHER) {
            u32 words[TOGETHER][2][2];
            float d[TOGETHER][HALVES][4] = {};
#pragma unroll
            for (int j = 0; j < TOGETHER; j++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const u8* row = at + (8 * i + row_of_lane) * (STEP / 2);
                    *reinterpret_cast<uint2*>(words[j][i]) = *reinterpret_cast<const uint2*>(
                        row + (((first + j) * 2 + t / 2 ^ row_of_lane) << 4) + t % 2 * 8);
                }
#pragma unroll
                for (int half = 0; half < HALVES; half++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        load16_if(&operand[j][half][4 * i],
                                  x_of_lane + (half * 8 * BLOCKS + first + j) * x_pitch + (i ^ g % 2) * 64,
                                  g + 8 * half < p.m);
            }
#pragma unroll
            for (int i = 0; i < BLOCK / 16; i++)
#pragma unroll
                for (int j = 0; j < TOGETHER; j++) {
                    u32 a[4];
#pragma unroll
                    for (int part = 0; part < 4; part++)
                        a[part] = pair(words[j][part % 2][i / 2], i % 2 * 2 + part / 2);
#pragma unroll
                    for (int half = 0; half < HALVES; half++)
                        multiply<T>(d[j][half], a, operand[j][half][2 * i], operand[j][half][2 * i + 1]);
                }
#pragma unroll
            for (int row = 0; row < 2; row++)
#pragma unroll
                for (int j = 0; j < TOGETHER; j++)
#pragma unroll
                    for (int half = 0; half < HALVES; half++)
#pragma unroll
                        for (int i = 0; i < 2; i++)
                            sum[half][2 * row + i] =
                                fmaf(d[j][half][2 * row + i], scale[row][first + j], sum[half][2 * row + i]);
        }
    };
    auto keep_sums = [&](u32 slot) {
#pragma unroll
        for (int half = 0; half < HALVES; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u32 token = 8 * half + 2 * t + i % 2;
                if (token < p.m)
                    partial[((warp * 2 + slot) * p.m + token) * 16 + i / 2 * 8 + row_of_lane] = sum[half][i];
                sum[half][i] = 0;
            }
    };

    u32 stage = 0, phase = 0;
#pragma unroll 1
    while (true) {
        u32 step = begin % steps, slot = 0;
#pragma unroll 1
        for (u32 left = end - begin; left > 0; left--) {
            barrier_wait(barriers + stage * 8, phase);
            __syncwarp();
            // Into the stage read in the round before: every lane has passed the line above since.
            fetch();
            multiply_step(ring + stage * CODE_BYTES, scale_ring + stage * SCALE_BYTES, step);
            if (++stage == p.stages) stage = 0, phase ^= 1;
            if (++step == steps || left == 1) keep_sums(slot), slot = 1, step = 0;
        }
        const u32 done_tile0 = tile0, done_tiles = tiles, done_steps = steps;
        const bool is_first = step0 == 0, is_last = step0 + steps == all_steps;
        step0 += steps;
        if (is_last) step0 = 0, tile0 += tiles;
        const bool more = tile0 < last_tile;
        __syncwarp();
        if (more) deal(), fetch_first();
        __syncthreads();
        // The warps' sums, in a fixed order.
        const u32 items = done_tiles * done_steps, rows = done_tiles * 16;
        for (u32 i = threadIdx.x; i < p.m * rows; i += threads) {
            const u32 token = i / rows, row = i % rows, first = row / 16 * done_steps, last = first + done_steps - 1;
            const u32 last_warp = ((last + 1) * warps - 1) / items;
            float value = is_first ? 0 : total[i];
            for (u32 w = ((first + 1) * warps - 1) / items; w <= last_warp; w++) {
                const u32 its_begin = items * w / warps;
                if (its_begin == items * (w + 1) / warps) continue;
                value += partial[((w * 2 + (its_begin < first)) * p.m + token) * 16 + row % 16];
            }
            const u32 n = done_tile0 * 16 + row;
            if (!is_last)
                total[i] = value;
            else if (n < p.n)
                p.y[static_cast<u64>(token) * p.n + n] = T::narrow(value);
        }
        if (!more) break;
        if (p.pass_steps < all_steps) copy_x();
        __syncthreads();
    }
}

#define KERNEL(name, type, halves, stored)                              \
    extern "C" __global__ void __launch_bounds__(32 * MOST_WARPS, 1)     \
        codebook_few_##name##_h##halves##_##stored(const __grid_constant__ Few p) {       \
        few<type, halves, stored>(p);                                   \
    }
#define KERNELS(name, type)        \
    KERNEL(name, type, 1, PLAIN)   \
    KERNEL(name, type, 1, CODED)   \
    KERNEL(name, type, 2, PLAIN)   \
    KERNEL(name, type, 2, CODED)
KERNELS(bf16, BF16)
KERNELS(f16, F16)
