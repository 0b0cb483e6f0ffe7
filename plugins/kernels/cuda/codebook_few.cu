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
//
// One launch multiplies with up to three matrices of as many columns and the same tables, tile after tile; or with two
// whose tiles alternate, of which the first's product, through silu, gates the second's. Where there are few tiles or
// many columns of X, two blocks of a cluster share each tile's columns, and the first adds what the second found.

static constexpr int MOST_WARPS = 16;
static constexpr int STEP = 256;
static constexpr int BLOCK = 64;
static constexpr int BLOCKS = STEP / BLOCK;       // a row and step
static constexpr int CODE_BYTES = 16 * STEP / 2;  // a tile and step: 16 rows of 128 bytes in the 128-byte swizzle
static constexpr int STAGES = 2;                 // of a warp: one step is multiplied while the next is on its way
static constexpr int COPIES = 8;                  // of the second level's table: one a row that lanes look up at once

// A row's scales of one step are 4 of f32, or 4 codes under one scale of the second level.
enum Stored { PLAIN, CODED };

static constexpr int MOST_PARTS = 3;

// One matrix.
struct alignas(128) Part {
    TensorMap codes;
    Scales scales;
    u16* y;
    u32 n;
    u32 first_tile;  // beyond all tiles where there is no such part
};

struct Few {
    Part parts[MOST_PARTS];
    const u16* x;
    const float* codebook;
    u32 m, k;
    u32 tiles;         // of all parts
    u32 second_shift;  // of CODED
    u32 low_first;
    u32 pass_steps;  // whose columns of X fit into shared memory
    u32 gated;    // whether the first of two parts gates the second
    u32 split;    // blocks a cluster, which share the columns: 1 or 2
};

// The barriers that were just made are seen by the copy engine.
static __device__ __forceinline__ void barriers_seen() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Past the first-level cache.
static __device__ __forceinline__ void copy16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
static __device__ __forceinline__ void copy4(u32 to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
// This thread arrives at the barrier once its copies from before have.
static __device__ __forceinline__ void arrive_after_copies(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
static __device__ __forceinline__ u32 rank_in_cluster() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
static __device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
static __device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// To shared memory of the cluster's first block, at an address as in this one.
static __device__ __forceinline__ void store_to_first(float* to, float value) {
    asm volatile(
        "{\n"
        ".reg .u32 there;\n"
        "mapa.shared::cluster.u32 there, %0, 0;\n"
        "st.shared::cluster.f32 [there], %1;\n"
        "}" ::"r"(shared_address(to)),
        "f"(value)
        : "memory");
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

// Makes a value one that the compiler cannot compute anew, so that it stays in its register.
static __device__ __forceinline__ void keep(u32& value) { asm volatile("" : "+r"(value)); }

static __device__ __forceinline__ void load8(u32 (&to)[2], u32 from) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
}
// 16 bytes of shared memory where `active`; else `to` stays what it is.
static __device__ __forceinline__ void load16_if(u32* to, u32 from, bool active) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.u32 p, %5, 0;\n"
        "@p ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
        "}"
        : "+r"(to[0]), "+r"(to[1]), "+r"(to[2]), "+r"(to[3])
        : "r"(from), "r"(static_cast<u32>(active)));
}

// HALVES: 1 for up to 8 rows of X, 2 for up to 16. X lies in between the rows of the table, or apart from it.
template <class T, int HALVES, bool APART, Stored STORED>
static __device__ __forceinline__ void few(const Few& p) {
    // For few rows of X, the table is spread out: that gives a shorter way to an address (see `pair`), and X may lie in
    // between.
    constexpr int PAIR_PITCH = HALVES == 1 ? 256 : 128;
    static_assert(PAIR_PITCH == 256 || APART, "there is nothing in between");
    constexpr int TABLE_BYTES = 256 * PAIR_PITCH;
    constexpr int SECOND_BYTES = STORED == CODED ? 256 * COPIES * 4 : 0;
    constexpr int SCALE_BYTES = STORED == CODED ? 16 * (4 + 4) : 16 * BLOCKS * 4;
    constexpr int TOGETHER = 2;  // blocks whose products are interleaved, to hide their latency
    const u32 warps = blockDim.x / 32, threads = blockDim.x;
    extern __shared__ __align__(1024) u8 shared[];
    u8* const table = shared;
    u8* const all_codes = shared + TABLE_BYTES;                        // [warps][stages][CODE_BYTES]
    u8* const all_scales = all_codes + warps * STAGES * CODE_BYTES;  // [warps][stages][SCALE_BYTES]
    float* const second_table =
        reinterpret_cast<float*>(all_scales + warps * STAGES * SCALE_BYTES);               // [256][COPIES]
    u8* const all_barriers = reinterpret_cast<u8*>(second_table) + SECOND_BYTES;             // [warps][stages], 8 bytes
    float* const partial = reinterpret_cast<float*>(all_barriers + warps * STAGES * 8);    // [warps][2][m][16]
    u8* const after = reinterpret_cast<u8*>(partial + warps * 2 * 16 * p.m);
    // X is [pass_steps][m][BLOCKS] lines of 128 bytes.
    constexpr int X_PITCH = APART ? 128 : 256;
    u8* const x = APART ? after + (128 - shared_address(after) % 128) % 128 : table + 128;
    // Of several passes over the columns: [m][16 warps].
    float* const total = reinterpret_cast<float*>(APART ? x + p.pass_steps * p.m * BLOCKS * 128 : after);
    // Of the cluster's second block: as large.
    float* const others = total + (p.pass_steps < (p.k / STEP + p.split - 1) / p.split ? p.m * 16 * warps : 0);

    const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32 ring = shared_address(all_codes + warp * STAGES * CODE_BYTES);
    const u32 scale_ring = shared_address(all_scales + warp * STAGES * SCALE_BYTES);
    const u32 barriers = shared_address(all_barriers + warp * STAGES * 8);
    // The tensor core's row g is this row of the tile: then 8-byte reads of 4 rows touch every bank once.
    const u32 row_of_lane = g % 4 * 2 + g / 4;
    // A share of the tiles, in pairs where they are gated, and of the columns.
    const u32 units = gridDim.x / p.split, unit = blockIdx.x / p.split, together = p.gated + 1;
    const u32 first_tile = p.tiles / together * unit / units * together;
    const u32 last_tile = p.tiles / together * (unit + 1) / units * together;
    const u32 rank = p.split > 1 ? rank_in_cluster() : 0;
    const u32 first_step = p.k / STEP * rank / p.split, last_step = p.k / STEP * (rank + 1) / p.split;
    struct Place {
        const Part& part;
        u32 tile;
    };
    auto place = [&](u32 tile) -> Place {
        if (p.gated) return {p.parts[tile % 2], tile / 2};
        const Part& part = p.parts[(tile >= p.parts[1].first_tile) + (tile >= p.parts[2].first_tile)];
        return {part, tile - part.first_tile};
    };

    // Tiles and steps done between two barriers, and this warp's run of them. With no more tiles than warps, a run
    // touches two of them at most.
    u32 tile0 = first_tile, step0 = first_step, tiles, steps, begin, end;
    auto deal = [&] {
        tiles = min(warps, last_tile - tile0);
        steps = min(p.pass_steps, last_step - step0);
        begin = tiles * steps * warp / warps;
        end = tiles * steps * (warp + 1) / warps;
    };

    // What is fetched next. A lane copies the scales of one row.
    u32 fetch_left = 0, fetch_tile = 0, fetch_step = 0, fetch_stage = 0, fetch_row, block_at;
    const TensorMap* fetch_map;
    const u8* fetch_scales;  // of PLAIN, and codes in a half of the lanes
    const float* fetch_second;
    auto seek = [&] {
        const Place at = place(min(tile0 + fetch_tile, last_tile - 1));
        fetch_map = &at.part.codes;
        fetch_row = at.tile * 16;
        // What lies outside of W is not read: its last row stands in.
        const u32 row = min(fetch_row + lane % 16, at.part.n - 1);
        block_at = (row * p.k + (step0 + fetch_step) * STEP) / BLOCK;
        if constexpr (STORED == PLAIN)
            fetch_scales = reinterpret_cast<const u8*>(at.part.scales.plain + block_at);
        else
            fetch_scales = at.part.scales.codes + block_at, fetch_second = at.part.scales.second;
    };
    auto fetch = [&] {
        if (fetch_left == 0) return;
        fetch_left--;
        const u32 barrier = barriers + fetch_stage * 8;
        if (lane == 0) {
            barrier_expect(barrier, CODE_BYTES);
            copy_box(ring + fetch_stage * CODE_BYTES, fetch_map, barrier, (step0 + fetch_step) * (STEP / 2), fetch_row);
        }
        const u32 to = scale_ring + fetch_stage * SCALE_BYTES;
        if constexpr (STORED == PLAIN) {
            if (lane < 16) copy16(to + lane * 16, fetch_scales);
            fetch_scales += BLOCKS * 4;
        } else {
            copy4(to + lane * 4, lane < 16 ? static_cast<const void*>(fetch_scales)
                                           : fetch_second + (block_at >> p.second_shift));
            fetch_scales += BLOCKS;
            block_at += BLOCKS;
        }
        arrive_after_copies(barrier);
        fetch_stage ^= 1;
        if (++fetch_step == steps) fetch_step = 0, fetch_tile++, seek();
    };
    auto fetch_first = [&] {
        fetch_left = end - begin, fetch_tile = begin / steps, fetch_step = begin % steps;
        seek();
        fetch();
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
                    to[i] = ((piece / 32 * p.m + row) * BLOCKS + piece % 32 / 8) * X_PITCH +
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
        prefetch_map(&place(first_tile).part.codes);
        for (u32 i = 0; i < STAGES; i++) barrier_init(barriers + i * 8, 32 + 1);
        barriers_seen();
    }
    __syncwarp();
    deal();
    fetch_first();
    // Before another block's shared memory is written it must have started.
    if (p.split > 1) cluster_arrive();
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
                second_table[i] = __ldg(p.parts[0].scales.table + i / COPIES);
    }
    end_of_overlap();
    copy_x();
    __syncthreads();
    if (p.split > 1) cluster_wait();

    // Lanes' places, in registers.
    u32 place_of_lane = lane * 4;
    u32 code_of_lane = ring + row_of_lane * (STEP / 2) + ((t / 2 ^ row_of_lane) << 4) + t % 2 * 8;
    u32 scale_of_lane = scale_ring + row_of_lane * (STORED == PLAIN ? 16 : 4);
    u32 x_of_lane = shared_address(x) + g * BLOCKS * X_PITCH + g % 2 * 64 + t * 16;
    keep(place_of_lane), keep(code_of_lane), keep(scale_of_lane), keep(x_of_lane);
    const u32 x_of_step = p.m * BLOCKS * X_PITCH;
    // The pair for a byte of a word. With a pitch of 256, its address is put together from bytes: the lane's place, and
    // above it the byte.
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
    float offset = 0;  // of scales, of CODED
    auto multiply_step = [&](u32 stage, u32 x_at) {
        float scale[2][BLOCKS];
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const u32 its = scale_of_lane + stage * SCALE_BYTES + 8 * row * (STORED == PLAIN ? 16 : 4);
            if constexpr (STORED == PLAIN) {
                asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                             : "=f"(scale[row][0]), "=f"(scale[row][1]), "=f"(scale[row][2]), "=f"(scale[row][3])
                             : "r"(its)
                             : "memory");
            } else {
                u32 codes;
                float second;
                asm volatile("ld.shared.u32 %0, [%1];" : "=r"(codes) : "r"(its) : "memory");
                asm volatile("ld.shared.f32 %0, [%1 + 64];" : "=f"(second) : "r"(its) : "memory");
#pragma unroll
                for (int i = 0; i < BLOCKS; i++)
                    scale[row][i] =
                        __fadd_rn(__fmul_rn(second_table[(codes >> (8 * i) & 255) * COPIES + g], second), offset);
            }
        }
        const u32 codes_at = code_of_lane + stage * CODE_BYTES, x_other = x_at ^ 64;
#pragma unroll
        for (int first = 0; first < BLOCKS; first += TOGETHER) {
            u32 words[TOGETHER][2][2];
            float d[TOGETHER][HALVES][4] = {};
#pragma unroll
            for (int j = 0; j < TOGETHER; j++) {
                // In the swizzle, bits 4 to 6 are those of the row and of the column in 16 bytes, each bit added.
                const u32 its = codes_at ^ (first + j) << 5;
                load8(words[j][0], its);
                load8(words[j][1], its + 8 * (STEP / 2));
#pragma unroll
                for (int half = 0; half < HALVES; half++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        load16_if(&operand[j][half][4 * i],
                                  (i ? x_other : x_at) + (half * 8 * BLOCKS + first + j) * X_PITCH, g + 8 * half < p.m);
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
        u32 tile = begin / steps, step = begin % steps, slot = 0;
        u32 x_at = x_of_lane + step * x_of_step;
        bool new_tile = true;
#pragma unroll 1
        for (u32 left = end - begin; left > 0; left--) {
            if (STORED == CODED && new_tile) offset = __ldg(place(tile0 + tile).part.scales.offset);
            barrier_wait(barriers + stage * 8, phase);
            __syncwarp();
            // Into the stage read in the round before: every lane has passed the line above since.
            fetch();
            multiply_step(stage, x_at);
            phase ^= stage;
            stage ^= 1;
            x_at += x_of_step;
            new_tile = ++step == steps;
            if (new_tile || left == 1) keep_sums(slot), slot = 1, step = 0, x_at = x_of_lane, tile++;
        }
        const u32 done_tile0 = tile0, done_steps = steps, done_rows = tiles * 16, items = tiles * steps;
        const bool is_first = step0 == first_step, is_last = step0 + steps == last_step;
        step0 += steps;
        if (is_last) step0 = first_step, tile0 += tiles;
        const bool more = tile0 < last_tile;
        __syncwarp();
        if (more) deal(), fetch_first();
        __syncthreads();
        // The sum for a row of the tiles that are done, over the warps that had a part in it, in a fixed order.
        auto sum_of = [&](u32 token, u32 row) {
            const u32 first = row / 16 * done_steps, last = first + done_steps - 1;
            const u32 last_warp = ((last + 1) * warps - 1) / items;
            float value = is_first ? 0 : total[token * done_rows + row];
            for (u32 w = ((first + 1) * warps - 1) / items; w <= last_warp; w++) {
                const u32 its_begin = items * w / warps;
                if (its_begin == items * (w + 1) / warps) continue;
                value += partial[((w * 2 + (its_begin < first)) * p.m + token) * 16 + row % 16];
            }
            return value;
        };
        if (!is_last || rank > 0)
            for (u32 i = threadIdx.x; i < p.m * done_rows; i += threads) {
                const float value = sum_of(i / done_rows, i % done_rows);
                if (!is_last)
                    total[i] = value;
                else
                    store_to_first(others + i, value);
            }
        if (is_last) {
            if (p.split > 1) cluster_arrive(), cluster_wait();
            auto whole = [&](u32 token, u32 row) {
                float value = sum_of(token, row);
                if (p.split > 1) value += others[token * done_rows + row];
                return T::narrow(value);
            };
            const u32 rows = rank > 0 ? 0 : p.gated ? done_rows / 2 : done_rows;
            for (u32 i = threadIdx.x; i < p.m * rows; i += threads) {
                const u32 token = i / rows, row = i % rows;
                const Place at = place(done_tile0 + row / 16 * together);
                const u32 n = at.tile * 16 + row % 16;
                if (n >= at.part.n) continue;
                u16 value;
                if (p.gated) {
                    const u32 its = row / 16 * 32 + row % 16;
                    const float gate = T::widen(whole(token, its)), up = T::widen(whole(token, its + 16));
                    value = T::narrow(gate / (1.0f + expf(-gate)) * up);
                } else {
                    value = whole(token, row);
                }
                at.part.y[static_cast<u64>(token) * at.part.n + n] = value;
            }
            // What the first block has read may be overwritten.
            if (p.split > 1 && more) cluster_arrive(), cluster_wait();
        }
        if (!more) break;
        if (p.pass_steps < last_step - first_step) copy_x();
        __syncthreads();
    }
}

#define KERNEL(name, type, shape, halves, apart, stored)                                 \
    extern "C" __global__ void __launch_bounds__(32 * MOST_WARPS, 1)                      \
        codebook_few_##name##_##shape##_##stored(const __grid_constant__ Few p) {         \
        few<type, halves, apart, stored>(p);                                              \
    }
#define KERNELS(name, type)                        \
    KERNEL(name, type, between, 1, false, PLAIN)   \
    KERNEL(name, type, between, 1, false, CODED)   \
    KERNEL(name, type, apart, 1, true, PLAIN)      \
    KERNEL(name, type, apart, 1, true, CODED)      \
    KERNEL(name, type, more, 2, true, PLAIN)       \
    KERNEL(name, type, more, 2, true, CODED)
KERNELS(bf16, BF16)
KERNELS(f16, F16)
