// Y = X · Wᵀ for 1 to 16 rows of X and W in a block codebook of 4 bits, blocks of 64: bound by reading W once.
// targets: sm_90
#include "numbers.cuh"
#include "hopper.cuh"
#include "overlap.cuh"
#include "products.cuh"
#include "scales.cuh"
#include "silu.cuh"

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
static constexpr int FEWEST_WARPS = 8;
static constexpr u32 MOST_STAGES = 3;
static constexpr int SLICE = 256;
static constexpr int BLOCK = 64;
static constexpr int BLOCKS = SLICE / BLOCK;  // a row and step
static constexpr int TILE = 16;
static constexpr int CODE_BYTES = TILE * SLICE / 2;  // a step: 16 rows of 128 bytes in the 128-byte swizzle
// A copy a lane of each entry, 256 bytes after the last's: of pairs in the first half of these, and in the second, where
// scales are coded, of the second level's table.
static constexpr int TABLE_BYTES = 256 * 256;
static constexpr int SECOND_TABLE = 128;

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
    // As far as `stages`, what the first copies wait for: one line of the constants' cache.
    u32 m, k;
    u32 tiles, longer;  // of a cluster, or pairs of tiles where they are gated; and the clusters that have one more
    u32 alone;          // whether there is one part
    u32 gated;          // whether the first of two parts gates the second
    u32 split;          // blocks a cluster, which share the columns: 1 or 2
    u32 warps;
    u32 sharing;        // warps that share the columns
    u32 over_sharing;   // 2^16 over `sharing`, rounded up: times a warp's number, its group
    u32 round;          // tiles whose sums there is room for
    u32 stages;         // of a warp's pipeline
    u32 held;           // slices of X that a warp holds at a time
    u32 over_m;         // 2^16 over `m`, rounded up: times a column of the tensor core's operand, the slice held there
    u32 low_first;
    // Of CODED: whether the copy engine can bring the scales, and tiles start with a scale of the second level; scales of the
    // first level a scale of the second, as a shift; scales of the second level that a tile has part in; 2^32 over these.
    u32 boxed;
    u32 second_shift;
    u32 seconds;
    u32 over_seconds;
    Part parts[MOST_PARTS];
};

// The barriers that were just made are seen by the copy engine.
static __device__ __forceinline__ void barriers_seen() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
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
    // Where a tile lies: found once, as it takes many instructions.
    struct Place {
        u32 part;  // in bytes
        u32 row;
    };
    // Of CODED: a scale of the second level, and what is added to its scales of the first.
    struct Second {
        float scale, offset;
    };
    constexpr int SCALE_BYTES = TILE * SCALE_PITCH;
    constexpr int DECODED_BYTES = STORED == CODED ? TILE * BLOCKS * 4 : 0;
    constexpr int TOGETHER = 2;  // blocks whose products are interleaved, to hide their latency
    constexpr bool LATER = HALVES == 1;  // whether scales are applied at a step's end: there are registers for it
    const u32 warps = p.warps, threads = warps * 32, together = p.gated + 1;
    extern __shared__ __align__(1024) u8 shared[];
    u8* const table = shared;
    u8* const all_codes = table + TABLE_BYTES;                             // [warps][stages][CODE_BYTES]
    u8* const all_scales = all_codes + warps * p.stages * CODE_BYTES;      // [warps][stages][SCALE_BYTES]
    u8* const all_decoded = all_scales + warps * p.stages * SCALE_BYTES;   // [warps][DECODED_BYTES]
    const u32 most_tiles = (p.tiles + 1) * together;
    auto* const places = reinterpret_cast<Place*>(all_decoded + warps * DECODED_BYTES);    // [tiles]
    u8* const all_barriers = reinterpret_cast<u8*>(places + most_tiles);                   // [warps][stages], 8 bytes
    auto* const seconds = reinterpret_cast<Second*>(all_barriers + warps * p.stages * 8);  // [tiles][p.seconds]
    float* const partial = reinterpret_cast<float*>(seconds + most_tiles * p.seconds);     // [round][sharing][m][TILE]
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
    const u32 group = __shfl_sync(~0u, warp * p.over_sharing >> 16, 0), groups = warps * p.over_sharing >> 16;
    const u32 share = warp - group * p.sharing;
    const u32 slices = p.k / SLICE >> (p.split - 1);
    const u32 first_slice = slices * rank + share, last_slice = rank + 1 == p.split ? p.k / SLICE : slices;

    auto part_of = [&](u32 tile) -> u32 {
        if (p.alone) return 0;
        if (p.gated) return tile % 2;
        return (tile >= p.parts[1].first_tile) + (tile >= p.parts[2].first_tile);
    };
    auto place = [&](u32 tile) -> Place {
        if (p.alone) return {0, tile * TILE};
        const u32 part = part_of(tile), its = p.gated ? tile / 2 : tile - p.parts[part].first_tile;
        return {part * static_cast<u32>(sizeof(Part)), its * TILE};
    };
    auto part_at = [&](const Place& at) -> const Part& {
        return *reinterpret_cast<const Part*>(reinterpret_cast<const u8*>(p.parts) + at.part);
    };

    const bool boxed = STORED == PLAIN || p.boxed;
    // Boxes start at multiples of 16 bytes: those of coded scales hold four slices'.
    auto box_of = [](u32 slice) { return slice * BLOCKS / SCALE_PITCH * SCALE_PITCH; };

    // What is fetched next: this warp's steps, round after round, slice after slice, tile after tile.
    u32 fetch_round = first_tile, fetch_slice = first_slice, fetch_tile = first_tile + group, fetch_stage = 0;
    // Whether there is a next one.
    auto next_fetch = [&] {
        while (fetch_tile >= min(fetch_round + p.round, last_tile)) {
            fetch_slice += p.sharing;
            if (fetch_slice >= last_slice) fetch_slice = first_slice, fetch_round += p.round;
            if (fetch_round >= last_tile) return false;
            fetch_tile = fetch_round + group;
        }
        return true;
    };
    auto fetch = [&](Place at) {
        const u32 barrier = barriers + fetch_stage * 8;
        const Part& its = part_at(at);
        const u32 to = scale_ring + fetch_stage * SCALE_BYTES;
        if (elected()) {
            barrier_expect(barrier, CODE_BYTES + (boxed ? TILE * SCALE_PITCH : 0));
            copy_box(ring + fetch_stage * CODE_BYTES, &its.codes, barrier, fetch_slice * (SLICE / 2), at.row);
            if (boxed)
                copy_box(to, &its.scale_tiles, barrier, STORED == PLAIN ? fetch_slice * SCALE_PITCH : box_of(fetch_slice),
                         at.row);
        }
        if (++fetch_stage == p.stages) fetch_stage = 0;
        fetch_tile += groups;
    };

    // All that the tables are made of is asked for at once, as it comes from far.
    const float code_value = __ldg(p.codebook + lane % 16);
    constexpr int TABLE_STEPS = 64 / FEWEST_WARPS;  // of a warp: 4 entries each
    float second_values[TABLE_STEPS] = {};
    Second second = {};
    // The scale of the second level that is a tile's i-th.
    auto second_of = [&](u32 i) -> Second {
        const u32 tile = __umulhi(i, p.over_seconds);
        const Place at = place(first_tile + tile);
        const Part& its = part_at(at);
        const u32 index = (at.row * (p.k / BLOCK) >> p.second_shift) + i - tile * p.seconds;
        // What lies outside of W is not read: its last one stands in.
        return {__ldg(its.scales.second + min(index, (its.n * (p.k / BLOCK) - 1) >> p.second_shift)),
                __ldg(its.scales.offset)};
    };
    const u32 all_seconds = (last_tile - first_tile) * p.seconds;
    if constexpr (STORED == CODED) {
#pragma unroll
        for (int i = 0; i < TABLE_STEPS; i++)
            if (warp + i * warps < 64) second_values[i] = __ldg(p.parts[0].scales.table + (warp + i * warps) * 4 + lane / 8);
        if (threadIdx.x < all_seconds) second = second_of(threadIdx.x);
    }
    if (elected()) {
#pragma unroll
        for (u32 i = 0; i < MOST_STAGES; i++)
            if (i < p.stages) barrier_init(barriers + i * 8, 1);
        barriers_seen();
    }
    __syncwarp();
    if (next_fetch()) fetch(place(fetch_tile));
    // Before another block's shared memory is written it must have started.
    if (p.split > 1) cluster_arrive();
    for (u32 i = threadIdx.x; i < last_tile - first_tile; i += threads) places[i] = place(first_tile + i);
    {
        const u32 bits = T::narrow(code_value);
#pragma unroll
        for (int n = 0; n < TABLE_STEPS; n++) {
            const u32 i = warp + n * warps;
            // There is always a first. Where the compiler does not know that, `code_value` may not have been waited for, and
            // the first use of its register again waits for X, whose loads share its scoreboard.
            if (n > 0 && i >= 64) break;
            const u32 byte = i * 4 + lane / 8;
            const u32 high = __shfl_sync(~0u, bits, byte >> 4), low = __shfl_sync(~0u, bits, byte & 15);
            const u32 both = p.low_first ? low | high << 16 : high | low << 16;
            u8* const to = table + byte * 256 + lane % 8 * 16;
            *reinterpret_cast<uint4*>(to) = make_uint4(both, both, both, both);
            if constexpr (STORED == CODED) {
                const float its = second_values[n];
                *reinterpret_cast<float4*>(to + SECOND_TABLE) = make_float4(its, its, its, its);
            }
        }
        if constexpr (STORED == CODED) {
            for (u32 i = threadIdx.x; i < all_seconds; i += threads) {
                if (i >= threads) second = second_of(i);
                seconds[i] = second;
            }
        }
    }
    end_of_overlap();

    // This lane's part of as many slices of X as are held, whose rows are the columns of the tensor core's operand one
    // slice after another: 16 columns of each block.
    auto load_x = [&](u32 (&to)[HALVES][BLOCKS][8], u32 slice) {
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const u32 column = g + 8 * half, which = column * p.over_m >> 16, token = column - which * p.m;
            const u32 its_slice = slice + which * p.sharing;
            const bool there = which < p.held && its_slice < last_slice;
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
    for (u32 i = 2; i < p.stages; i++)
        if (next_fetch()) fetch(place(fetch_tile));
    __syncthreads();
    if (p.split > 1) cluster_wait();

    // Lanes' places: of a pair's copy, in a register; and from `shared` on, of codes and scales.
    u32 place_of_lane = lane * 4;
    keep(place_of_lane);
    u32 second_place_of_lane = SECOND_TABLE + lane * 4;  // of CODED
    if constexpr (STORED == CODED) keep(second_place_of_lane);
    const u32 code_of_lane = ring - shared_address(shared) + row_of_lane * (SLICE / 2) +
                             ((t / 2 ^ row_of_lane) << 4) + t % 2 * 8;
    u8* const scales_of_warp = all_scales + warp * p.stages * SCALE_BYTES;
    float* const decoded = reinterpret_cast<float*>(all_decoded + warp * DECODED_BYTES);  // of CODED
    // The pair for a byte of a word: its address is put together from bytes, the lane's place and above it the byte.
    auto pair = [&](u32 word, int byte) {
        return *reinterpret_cast<const u32*>(table + __byte_perm(word, place_of_lane, 0x5504 | byte << 4));
    };
    auto first_level = [&](u32 word, int byte) {
        return *reinterpret_cast<const float*>(table + __byte_perm(word, second_place_of_lane, 0x5504 | byte << 4));
    };
    float sum[HALVES][4];
    // Of CODED, a lane decodes two neighbours of a step's scales. Where those of a slice lie in a stage, and how many come
    // before them in a tile.
    u32 coded_of_lane = 0, before_lane = 0;
    // `scale_codes` and their scale of the second level, where they are not boxed.
    auto multiply_step = [&](u32 stage, u32 tile, u32 scale_codes, Second second) {
        const u8* const stored_scales = scales_of_warp + stage * SCALE_BYTES;
        if (STORED == CODED && boxed) {
            scale_codes = *reinterpret_cast<const u16*>(stored_scales + coded_of_lane);
            second = seconds[tile * p.seconds + (before_lane >> p.second_shift)];
        }
        auto decode_scales = [&] {
            *reinterpret_cast<float2*>(decoded + lane * 2) =
                make_float2(__fadd_rn(__fmul_rn(first_level(scale_codes, 0), second.scale), second.offset),
                            __fadd_rn(__fmul_rn(first_level(scale_codes, 1), second.scale), second.offset));
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
#pragma unroll
            for (int first = 0; first < BLOCKS; first += TOGETHER) {
                multiply_blocks(first);
                if (STORED == CODED && first == 0) decode_scales(), __syncwarp();
                add_scaled(first, first + TOGETHER);
            }
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
            if constexpr (STORED == CODED) {
                coded_of_lane = lane / 2 * SCALE_PITCH + lane % 2 * 2 + slice * BLOCKS - box_of(slice);
                before_lane = lane / 2 * (p.k / BLOCK) + slice * BLOCKS;
            }
#pragma unroll 1
            for (u32 slot = group; slot < tiles; slot += groups) {
                const u32 tile = round - first_tile + slot;
                // Scales that are not boxed come from far, too.
                u32 scale_codes = 0;
                Second second = {};
                if (STORED == CODED && !boxed) {
                    const Place at = places[tile];
                    const Part& its = part_at(at);
                    // What lies outside of W is not read: its last row stands in.
                    const u32 index = min(at.row + lane / 2, its.n - 1) * (p.k / BLOCK) + slice * BLOCKS;
                    scale_codes = __ldg(reinterpret_cast<const u16*>(its.scales.codes + index) + lane % 2);
                    const u32 before = at.row * (p.k / BLOCK) & ((1u << p.second_shift) - 1);
                    second = seconds[tile * p.seconds + ((before + before_lane) >> p.second_shift)];
                }
                barrier_wait(barriers + stage * 8, phase);
                __syncwarp();
                // Into the stage read in the step before: every lane has passed the line above since.
                if (next_fetch()) fetch(places[fetch_tile - first_tile]);
#pragma unroll
                for (int half = 0; half < HALVES; half++)
#pragma unroll
                    for (int i = 0; i < 4; i++) sum[half][i] = 0;
                if (slice > first_slice)
                    each_sum(slot, first_column, [](float& stored, float& value) { value = stored; });
                multiply_step(stage, tile, scale_codes, second);
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
#pragma unroll 8
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
            each_row(items, [&](u32 token, u32 row) { store_to_first(others + token * items + row, __float_as_uint(sum_of(token, row))); });
        if (p.split > 1) cluster_arrive(), cluster_wait();
        auto whole = [&](u32 token, u32 row) {
            float value = sum_of(token, row);
            if (p.split > 1) value += others[token * items + row];
            return T::narrow(value);
        };
        if (rank == 0)
            each_row(items >> p.gated, [&](u32 token, u32 row) {
                const Place at = places[round - first_tile + row / TILE * together];
                const Part& part = part_at(at);
                const u32 n = at.row + row % TILE;
                if (n >= part.n) return;
                u16 value;
                if (p.gated) {
                    const u32 its = row / TILE * 2 * TILE + row % TILE;
                    const float gate = T::widen(whole(token, its)), up = T::widen(whole(token, its + TILE));
                    value = T::narrow(silu_times(gate, up));
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
