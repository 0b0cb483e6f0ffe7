// Y = X · Wᵀ for 1 to 16 rows of X and W in a block codebook of 4 bits, blocks of 64: bound by reading W once.
// targets: sm_90
#include "numbers.cuh"
#include "hopper.cuh"
#include "overlap.cuh"
#include "products.cuh"
#include "scales.cuh"

// A block of threads a multiprocessor owns tiles of 16 rows of W. Its warps share the columns in slices of 256: a warp
// keeps its slice of X in registers and goes over the tiles, a step each; where there are more slices than warps it does
// so several times, and where there are fewer, groups of warps share the tiles. Sums of a round of tiles meet in shared
// memory. Each warp has a pipeline of its own: the copy engine brings codes and scales, since the way from shared memory to
// registers, which the table below keeps busy, is what there is least of. (Registers as a pipeline do not work: the
// loads of all stages share one scoreboard, so waiting for one waits for all.)
//
// A byte holds two weights that follow each other in K, which is just what a register of the tensor core's operand
// wants: one lookup in a table of 256 pairs, kept once a lane so that no two lanes meet in a bank. Codes are rounded to
// the element type, products summed in f32, and each block's sum multiplied with its scale in f32. The order of K
// within a block is permuted alike in both operands, so that a lane's codes lie together.
//
// One launch multiplies with up to three matrices of as many columns and the same tables, tile after tile; or with two
// whose tiles alternate, of which the first's product, through silu, gates the second's. Where there are few tiles, two
// blocks of a cluster share each tile's columns, and the first adds what the second found.

static constexpr int MOST_WARPS = 16;
static constexpr int SLICE = 256;
static constexpr int BLOCK = 64;
static constexpr int BLOCKS = SLICE / BLOCK;  // a row and step
static constexpr int TILE = 16;
static constexpr int CODE_BYTES = TILE * SLICE / 2;  // a step: 16 rows of 128 bytes in the 128-byte swizzle
static constexpr int TABLE_BYTES = 256 * 256;        // pairs, a copy a lane, each pair's 256 bytes after the last's
static constexpr int COPIES = 8;                     // of the second level's table, so that few lanes meet in a bank

// A row's scales of one step are 4 of f32, or 4 codes under one scale of the second level. Both take 16 bytes, the least
// that the copy engine brings.
enum Stored { PLAIN, CODED };
static constexpr int SCALE_PITCH = 16;

static constexpr int MOST_PARTS = 3;

// One matrix.
struct alignas(128) Part {
    TensorMap codes;
    TensorMap scale_tiles;  // of PLAIN, and of CODED where they are boxed
    Scales scales;
    u16* y;
    u32 n;
    u32 first_tile;  // beyond all tiles where there is no such part
};

struct Few {
    const u16* x;
    const float* codebook;
    u32 m, k;
    u32 tiles, longer;  // of a cluster, or pairs of tiles where they are gated; and the clusters that have one more
    u32 second_shift;   // of CODED
    u32 boxed;          // whether the copy engine can bring the scales
    u32 seconds;        // scales of the second level that a tile has part in, of CODED
    u32 low_first;
    u32 alone;    // whether there is one part
    u32 gated;    // whether the first of two parts gates the second
    u32 split;    // blocks a cluster, which share the columns: 1 or 2
    u32 sharing;  // warps that share the columns
    u32 held;     // slices of X that a warp holds at a time
    u32 round;    // tiles whose sums there is room for
    u32 stages;   // of a warp's pipeline
    Part parts[MOST_PARTS];
};

// The barriers that were just made are seen by the copy engine.
static __device__ __forceinline__ void barriers_seen() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
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

// HALVES: 1 for up to 8 rows of X, 2 for up to 16.
template <class T, int HALVES, Stored STORED>
static __device__ __forceinline__ void few(const Few& p) {
    constexpr int SCALE_BYTES = TILE * SCALE_PITCH;
    constexpr int DECODED_BYTES = STORED == CODED ? TILE * BLOCKS * 4 : 0;
    constexpr int SECOND_BYTES = STORED == CODED ? 256 * COPIES * 4 : 0;
    constexpr int TOGETHER = 2;  // blocks whose products are interleaved, to hide their latency
    constexpr bool LATER = HALVES == 1;  // whether scales are applied at a step's end: there are registers for it
    const u32 warps = blockDim.x / 32, threads = blockDim.x, together = p.gated + 1;
    extern __shared__ __align__(1024) u8 shared[];
    u8* const table = shared;
    u8* const all_codes = table + TABLE_BYTES;                                                  // [warps][stages][CODE_BYTES]
    u8* const all_scales = all_codes + warps * p.stages * CODE_BYTES;                           // [warps][stages][SCALE_BYTES]
    u8* const all_decoded = all_scales + warps * p.stages * SCALE_BYTES;                        // [warps][DECODED_BYTES]
    float* const second_table = reinterpret_cast<float*>(all_decoded + warps * DECODED_BYTES);  // [256][COPIES]
    u8* const all_barriers = reinterpret_cast<u8*>(second_table) + SECOND_BYTES;                // [warps][stages], 8 bytes
    float* const seconds = reinterpret_cast<float*>(all_barriers + warps * p.stages * 8);       // [tiles][p.seconds]
    float* const partial = seconds + (p.tiles + 1) * together * p.seconds;                      // [round][sharing][m][TILE]
    float* const others = partial + p.round * p.sharing * p.m * TILE;  // of the cluster's second block: [round][m][TILE]

    const u32 warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32 ring = shared_address(all_codes + warp * p.stages * CODE_BYTES);
    const u32 scale_ring = shared_address(all_scales + warp * p.stages * SCALE_BYTES);
    const u32 barriers = shared_address(all_barriers + warp * p.stages * 8);
    // The tensor core's row g is this row of the tile: then 8-byte reads of 4 rows touch every bank once.
    const u32 row_of_lane = g % 4 * 2 + g / 4;
    // A share of the tiles, in pairs where they are gated, and of the slices.
    const u32 rank = p.split > 1 ? rank_in_cluster() : 0, unit = (blockIdx.x - rank) >> (p.split - 1);
    const u32 first_tile = (unit * p.tiles + min(unit, p.longer)) * together;
    const u32 last_tile = first_tile + (p.tiles + (unit < p.longer)) * together;
    // The group of warps that this one shares the columns with, and its first slice.
    u32 share = warp, group = 0, groups = 1;
    while (share >= p.sharing) share -= p.sharing, group++;
    while (groups * p.sharing < warps) groups++;
    const u32 slices = p.k / SLICE >> (p.split - 1);
    const u32 first_slice = slices * rank + share, last_slice = rank + 1 == p.split ? p.k / SLICE : slices;

    struct Place {
        u32 part, tile;
    };
    auto place = [&](u32 tile) -> Place {
        if (p.alone) return {0, tile};
        if (p.gated) return {tile % 2, tile / 2};
        const u32 part = (tile >= p.parts[1].first_tile) + (tile >= p.parts[2].first_tile);
        return {part, tile - p.parts[part].first_tile};
    };

    const bool boxed = STORED == PLAIN || p.boxed;
    // Boxes start at multiples of 16 bytes: those of coded scales hold four slices'.
    auto box_of = [](u32 slice) { return slice * BLOCKS / SCALE_PITCH * SCALE_PITCH; };

    // The scale of the second level that a tile's first row starts with.
    auto first_second = [&](u32 tile) { return (tile * TILE * (p.k / BLOCK)) >> p.second_shift; };

    // What is fetched next: this warp's steps, round after round, slice after slice, tile after tile.
    u32 fetch_round = first_tile, fetch_slice = first_slice, fetch_tile = first_tile + group, fetch_stage = 0;
    auto fetch = [&] {
        while (fetch_tile >= min(fetch_round + p.round, last_tile)) {
            fetch_slice += p.sharing;
            if (fetch_slice >= last_slice) fetch_slice = first_slice, fetch_round += p.round;
            if (fetch_round >= last_tile) return;
            fetch_tile = fetch_round + group;
        }
        const u32 barrier = barriers + fetch_stage * 8;
        const Place at = place(fetch_tile);
        const Part& its = p.parts[at.part];
        const u32 to = scale_ring + fetch_stage * SCALE_BYTES;
        if (lane == 0) {
            barrier_expect(barrier, CODE_BYTES + (boxed ? TILE * SCALE_PITCH : 0));
            copy_box(ring + fetch_stage * CODE_BYTES, &its.codes, barrier, fetch_slice * (SLICE / 2),
                     at.tile * TILE);
            if (boxed)
                copy_box(to, &its.scale_tiles, barrier, STORED == PLAIN ? fetch_slice * SCALE_PITCH : box_of(fetch_slice),
                         at.tile * TILE);
        }
        if (!boxed) {
            // What lies outside of W is not read: its last row stands in.
            const u32 row = min(at.tile * TILE + lane, its.n - 1);
            if (lane < TILE) copy4(to + lane * SCALE_PITCH, its.scales.codes + (row * p.k + fetch_slice * SLICE) / BLOCK);
            arrive_after_copies(barrier);
        }
        if (++fetch_stage == p.stages) fetch_stage = 0;
        fetch_tile += groups;
    };

    const float code_value = __ldg(p.codebook + lane % 16);
    float second_value = 0;
    float offsets[MOST_PARTS] = {};
    if constexpr (STORED == CODED) {
        if (threadIdx.x < 256) second_value = __ldg(p.parts[0].scales.table + threadIdx.x);
#pragma unroll
        for (int i = 0; i < MOST_PARTS; i++) offsets[i] = __ldg(p.parts[i].scales.offset);
    }
    if (lane == 0) {
        for (u32 i = 0; i < p.stages; i++) barrier_init(barriers + i * 8, boxed ? 1 : 32 + 1);
        barriers_seen();
    }
    __syncwarp();
    fetch();
    // Before another block's shared memory is written it must have started.
    if (p.split > 1) cluster_arrive();
    {
        const u32 bits = T::narrow(code_value);
        for (u32 i = warp; i < 64; i += warps) {
            const u32 byte = i * 4 + lane / 8;
            const u32 high = __shfl_sync(~0u, bits, byte >> 4), low = __shfl_sync(~0u, bits, byte & 15);
            const u32 both = p.low_first ? low | high << 16 : high | low << 16;
            *reinterpret_cast<uint4*>(table + byte * 256 + lane % 8 * 16) = make_uint4(both, both, both, both);
        }
        if constexpr (STORED == CODED) {
            if (threadIdx.x < 256) {
#pragma unroll
                for (int i = 0; i < COPIES; i++) second_table[threadIdx.x * COPIES + i] = second_value;
            }
            // Of each of the block's tiles, from the one of its first row on.
            for (u32 i = threadIdx.x; i < (last_tile - first_tile) * p.seconds; i += threads) {
                const Place at = place(first_tile + i / p.seconds);
                const Part& its = p.parts[at.part];
                const u32 second = first_second(at.tile) + i % p.seconds;
                seconds[i] = __ldg(its.scales.second + min(second, (its.n * (p.k / BLOCK) - 1) >> p.second_shift));
            }
        }
    }
    end_of_overlap();

    // This lane's part of as many slices of X as are held, whose rows are the columns of the tensor core's operand one
    // slice after another: 16 columns of each block.
    auto load_x = [&](u32 (&to)[HALVES][BLOCKS][8], u32 slice) {
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            u32 token = g + 8 * half, its_slice = slice;
            while (token >= p.m) token -= p.m, its_slice += p.sharing;
            const bool there = its_slice < min(slice + p.held * p.sharing, last_slice);
            const uint4* const from =
                reinterpret_cast<const uint4*>(p.x + static_cast<u64>(token) * p.k + its_slice * SLICE + t * 16);
#pragma unroll
            for (int block = 0; block < BLOCKS; block++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint4 four = there ? load(from + block * (BLOCK / 8) + i) : make_uint4(0, 0, 0, 0);
                    to[half][block][4 * i] = four.x, to[half][block][4 * i + 1] = four.y;
                    to[half][block][4 * i + 2] = four.z, to[half][block][4 * i + 3] = four.w;
                }
        }
    };
    u32 x[HALVES][BLOCKS][8];
    // Before more of W, which would be in its way.
    load_x(x, first_slice);
    for (u32 i = 2; i < p.stages; i++) fetch();
    __syncthreads();
    if (p.split > 1) cluster_wait();

    // Lanes' places: of a pair's copy, in a register; and from `shared` on, of codes and scales.
    u32 place_of_lane = lane * 4;
    keep(place_of_lane);
    const u32 code_of_lane = ring - shared_address(shared) + row_of_lane * (SLICE / 2) +
                             ((t / 2 ^ row_of_lane) << 4) + t % 2 * 8;
    u8* const scales_of_warp = all_scales + warp * p.stages * SCALE_BYTES;
    float* const decoded = reinterpret_cast<float*>(all_decoded + warp * DECODED_BYTES);  // of CODED
    // The pair for a byte of a word: its address is put together from bytes, the lane's place and above it the byte.
    auto pair = [&](u32 word, int byte) {
        return *reinterpret_cast<const u32*>(table + __byte_perm(word, place_of_lane, 0x5504 | byte << 4));
    };
    float sum[HALVES][4];
    // Of CODED: the place, among its tile's, of the scale of the second level for this lane's row. Where tiles have whole
    // ones, it is the same in all.
    const bool whole_seconds = (TILE * (p.k / BLOCK) & ((1u << p.second_shift) - 1)) == 0;
    auto second_in_tile = [&](u32 tile, u32 slice) {
        const u32 block = lane / 2 * (p.k / BLOCK) + slice * BLOCKS;
        if (HALVES == 1 && whole_seconds) return block >> p.second_shift;
        return ((tile * TILE * (p.k / BLOCK) + block) >> p.second_shift) - first_second(tile);
    };
    auto multiply_step = [&](u32 stage, u32 slice, u32 tile) {
        const u8* const stored_scales = scales_of_warp + stage * SCALE_BYTES;
        // Two coded scales a lane, which the whole warp finds.
        u32 scale_codes = 0;
        float second = 0, offset = 0;
        if constexpr (STORED == CODED) {
            const u32 in_row = p.boxed ? slice * BLOCKS - box_of(slice) : 0;
            scale_codes = *reinterpret_cast<const u16*>(stored_scales + lane / 2 * SCALE_PITCH + in_row + lane % 2 * 2);
            const Place at = place(tile);
            second = seconds[(tile - first_tile) * p.seconds + second_in_tile(at.tile, slice)];
            offset = at.part == 0 ? offsets[0] : at.part == 1 ? offsets[1] : offsets[2];
        }
        auto decode_scales = [&] {
            const float first = second_table[(scale_codes & 255) * COPIES + lane % COPIES];
            const float other = second_table[(scale_codes >> 8) * COPIES + lane % COPIES];
            *reinterpret_cast<float2*>(decoded + lane * 2) =
                make_float2(__fadd_rn(__fmul_rn(first, second), offset), __fadd_rn(__fmul_rn(other, second), offset));
        };
        const u32 codes_at = code_of_lane + stage * CODE_BYTES;
        float d[LATER ? BLOCKS : TOGETHER][HALVES][4] = {};
        auto multiply_blocks = [&](int first) {
            u32 words[TOGETHER][2][2];
#pragma unroll
            for (int j = 0; j < TOGETHER; j++)
#pragma unroll
                for (int row = 0; row < 2; row++) {
                    // In the swizzle, bits 4 to 6 are those of the row and of the column in 16 bytes, each bit added.
                    const uint2 two = *reinterpret_cast<const uint2*>(shared + (codes_at ^ (first + j) << 5) +
                                                                      row * 8 * (SLICE / 2));
                    words[j][row][0] = two.x, words[j][row][1] = two.y;
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
                        multiply<T>(d[LATER ? first + j : j][half], a, x[half][first + j][2 * i],
                                    x[half][first + j][2 * i + 1]);
                }
        };
        auto add_scaled = [&](int first, int last) {
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const u32 its = (row_of_lane + 8 * row) * BLOCKS;
                const float4 four = *reinterpret_cast<const float4*>(
                    (STORED == CODED ? decoded : reinterpret_cast<const float*>(stored_scales)) + its);
                const float scale[BLOCKS] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (int block = first; block < last; block++)
#pragma unroll
                    for (int half = 0; half < HALVES; half++)
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            float& value = d[LATER ? block : block - first][half][2 * row + i];
                            sum[half][2 * row + i] = fmaf(value, scale[block], sum[half][2 * row + i]);
                            value = 0;
                        }
            }
        };
        if constexpr (LATER) {
            multiply_blocks(0);
            if constexpr (STORED == CODED) decode_scales();
            multiply_blocks(TOGETHER);
            if constexpr (STORED == CODED) __syncwarp();
            add_scaled(0, BLOCKS);
        } else {
            if constexpr (STORED == CODED) decode_scales(), __syncwarp();
#pragma unroll
            for (int first = 0; first < BLOCKS; first += TOGETHER)
                multiply_blocks(first), add_scaled(first, first + TOGETHER);
        }
    };
    // Sums of a tile, of this warp's slices so far. Those of one slice lie in the columns from `first_column` on.
    auto each_sum = [&](u32 slot, u32 first_column, auto with) {
        float* const its = partial + (slot * p.sharing + share) * p.m * TILE + row_of_lane;
#pragma unroll
        for (int half = 0; half < HALVES; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u32 token = 8 * half + 2 * t + i % 2 - first_column;
                if (token < p.m) with(its[token * TILE + i / 2 * 8], sum[half][i]);
            }
    };

    u32 stage = 0, phase = 0;
#pragma unroll 1
    for (u32 round = first_tile; round < last_tile; round += p.round) {
        const u32 tiles = min(p.round, last_tile - round);
        u32 left = p.held;  // slices of those held
#pragma unroll 1
        for (u32 slice = first_slice; slice < last_slice; slice += p.sharing) {
            if (left == 0 || (slice == first_slice && round > first_tile && slice + p.held * p.sharing < last_slice))
                load_x(x, slice), left = p.held;
            const u32 first_column = (p.held - left--) * p.m;
#pragma unroll 1
            for (u32 slot = group; slot < tiles; slot += groups) {
                barrier_wait(barriers + stage * 8, phase);
                __syncwarp();
                // Into the stage read in the step before: every lane has passed the line above since.
                fetch();
#pragma unroll
                for (int half = 0; half < HALVES; half++)
#pragma unroll
                    for (int i = 0; i < 4; i++) sum[half][i] = 0;
                if (slice > first_slice)
                    each_sum(slot, first_column, [](float& stored, float& value) { value = stored; });
                multiply_step(stage, slice, round + slot);
                each_sum(slot, first_column, [](float& stored, float& value) { stored = value; });
                if (++stage == p.stages) stage = 0, phase ^= 1;
            }
        }
        __syncthreads();
        // The sum for a row of the round's tiles, over the warps that had a part in it, in a fixed order.
        const u32 items = tiles * TILE;
        auto sum_of = [&](u32 token, u32 row) {
            const float* const its = partial + (row / TILE * p.sharing * p.m + token) * TILE + row % TILE;
            float value = 0;
#pragma unroll 4
            for (u32 i = 0; i < p.sharing; i++) value += its[i * p.m * TILE];
            return value;
        };
        // Goes over the rows of all tokens, `rows` each.
        auto each_row = [&](u32 rows, auto with) {
            u32 token = 0, row = threadIdx.x;
            while (true) {
                while (row >= rows && token < p.m) row -= rows, token++;
                if (token >= p.m) break;
                with(token, row);
                row += threads;
            }
        };
        if (rank > 0)
            each_row(items, [&](u32 token, u32 row) { store_to_first(others + token * items + row, sum_of(token, row)); });
        if (p.split > 1) cluster_arrive(), cluster_wait();
        auto whole = [&](u32 token, u32 row) {
            float value = sum_of(token, row);
            if (p.split > 1) value += others[token * items + row];
            return T::narrow(value);
        };
        if (rank == 0)
            each_row(items >> p.gated, [&](u32 token, u32 row) {
                const Place at = place(round + row / TILE * together);
                const Part& part = p.parts[at.part];
                const u32 n = at.tile * TILE + row % TILE;
                if (n >= part.n) return;
                u16 value;
                if (p.gated) {
                    const u32 its = row / TILE * 2 * TILE + row % TILE;
                    const float gate = T::widen(whole(token, its)), up = T::widen(whole(token, its + TILE));
                    value = T::narrow(gate / (1.0f + expf(-gate)) * up);
                } else {
                    value = whole(token, row);
                }
                part.y[static_cast<u64>(token) * part.n + n] = value;
            });
        if (round + p.round < last_tile) {
            // What the first block has read may be overwritten, and what a block's warps have read.
            if (p.split > 1) cluster_arrive(), cluster_wait();
            __syncthreads();
        }
    }
}

#define KERNEL(name, type, shape, halves, stored)                                        \
    extern "C" __global__ void __launch_bounds__(32 * MOST_WARPS, 1)                      \
        codebook_few_##name##_##shape##_##stored(const __grid_constant__ Few p) {         \
        few<type, halves, stored>(p);                                                     \
    }
#define KERNELS(name, type)              \
    KERNEL(name, type, 8, 1, PLAIN)      \
    KERNEL(name, type, 8, 1, CODED)      \
    KERNEL(name, type, 16, 2, PLAIN)     \
    KERNEL(name, type, 16, 2, CODED)
KERNELS(bf16, BF16)
KERNELS(f16, F16)
