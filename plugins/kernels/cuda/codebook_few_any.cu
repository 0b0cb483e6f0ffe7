// The products of codebook_few.cu for layouts and GPUs that it does not know.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "products.cuh"
#include "scales.cuh"

// A block of threads owns 16-row tiles of W, TILES at a time; its warps share out K in steps. Each warp has a pipeline of
// its own (cp.async, no barrier) that runs on across tiles, so memory is never left waiting for arithmetic.
//
// A byte holds two weights that follow each other in K, which is just what a register of the tensor core's operand
// wants: one lookup in a table of 256 pairs, kept once a lane so that no two lanes meet in a bank. Codes are rounded to
// the element type, products summed in f32, and each block's sum multiplied with its scale in f32. The order of K
// within a block is permuted alike in both operands, so that a lane's codes lie together.

static constexpr int WARPS = 8;
static constexpr int MOST_STAGES = 6;

// How a row's scales of one step are fetched: as one vector of f32; as one of codes, under one scale of the second level;
// or one by one, wherever they lie.
enum Fetch { PLAIN, CODED, ANY };

struct Few {
    u16* y;
    const u16* x;
    const u8* codes;
    const float* codebook;
    Scales scales;
    u32 m, n, k;
    u32 scale_stride;  // elements between the blocks of one row and the next: k where blocks are flat
    u32 block_shift;
    u32 second_shift;  // of CODED
    u32 low_first;
    u32 stages;
};

static __device__ __forceinline__ u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// 16 bytes, or zeros where `inside` is false.
static __device__ __forceinline__ void copy16(u32 to, const void* from, bool inside) {
    u32 bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void copy8(u32 to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}

// STEP: K a warp and step. UNIT: elements of a row that share a scale (the block, at most 64). HALVES: 1 for up to 8 rows
// of X, 2 for up to 16.
template <class T, int STEP, int TILES, int UNIT, int HALVES, Fetch FETCH>
static __device__ __forceinline__ void few(const Few& p) {
    constexpr int ROWS = 16 * TILES;
    constexpr int UNITS = STEP / UNIT;
    constexpr int TOGETHER = TILES * HALVES < 4 ? 2 : 1;  // units whose products are interleaved, to hide their latency
    constexpr int PRODUCTS = UNIT / 16;                    // tensor core instructions a unit and tile
    constexpr int LANE_ROWS = ROWS / 32;                   // rows whose scales a lane fetches
    constexpr int CHUNKS = STEP / 32;                      // 16 bytes of codes each, a row
    constexpr int W_PITCH = STEP / 2;
    constexpr int X_PITCH = STEP * 2 + 16;                 // spread over the banks
    constexpr int W_BYTES = ROWS * W_PITCH;
    constexpr int SCALE_BYTES = ROWS * UNITS * 4;
    // Where shared memory is not wanted for more of X, the table has room for a shorter way to an address: see `pair`.
    constexpr int PAIR_PITCH = HALVES == 1 ? 256 : 128;
    constexpr int TABLE_BYTES = 256 * PAIR_PITCH;
    static_assert(STEP == 128 || STEP == 256, "the order of the chunks below");
    static_assert(FETCH == ANY || UNITS == 2 || UNITS == 4, "the widths of the vectors below");
    __shared__ float second_table[256];
    extern __shared__ __align__(128) u8 shared[];
    u8* const table = shared;

    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32 stage_bytes = W_BYTES + SCALE_BYTES + p.m * X_PITCH;
    float* const partial = reinterpret_cast<float*>(shared + TABLE_BYTES);  // [WARPS][m][ROWS]
    u8* const ring = shared + TABLE_BYTES + WARPS * p.m * ROWS * 4 + warp * p.stages * stage_bytes;

    const u32 tiles = (p.n + 15) / 16;
    const u32 first_tile = static_cast<u32>(static_cast<u64>(tiles) * blockIdx.x / gridDim.x);
    const u32 last_tile = static_cast<u32>(static_cast<u64>(tiles) * (blockIdx.x + 1) / gridDim.x);
    const u32 groups = (last_tile - first_tile + TILES - 1) / TILES;
    const u32 steps = (p.k + STEP - 1) / STEP;
    const u32 rounds = (steps + WARPS - 1) / WARPS;
    const u32 fills = groups * rounds;
    const float offset = FETCH == CODED ? __ldg(p.scales.offset) : 0;

    // The 16-byte chunks of a row lie in an order that lets 8-byte reads of 4 rows touch every bank once.
    auto swizzled = [](u32 chunk, u32 row) { return chunk ^ (STEP == 256 ? row % 4 * 2 : row & 2); };

    // Scales on their way: the codes of a row's units and their scale of the second level, or finished ones.
    struct Pending {
        float scale[LANE_ROWS][FETCH == ANY ? UNITS : 1];
        u32 codes[LANE_ROWS];
    };
    // What a fill reads. It runs ahead of the arithmetic.
    struct Place {
        u32 group, round, stage;
    };
    auto advance = [&](Place& place) {
        if (++place.round == rounds) place.round = 0, place.group++;
        if (++place.stage == p.stages) place.stage = 0;
    };
    auto first_row = [&](const Place& place) { return (first_tile + place.group * TILES) * 16; };
    auto first_column = [&](const Place& place) { return (place.round * WARPS + warp) * STEP; };
    auto copy_operands = [&](const Place& place) {
        const u32 row0 = first_row(place), k0 = first_column(place), most = p.n - 1;
        const u32 live = (last_tile - first_tile - place.group * TILES) * 16;
        const u32 base = shared_address(ring + place.stage * stage_bytes);
        if (k0 >= p.k) return;
        // What lies outside of W or X is not read, whatever its address.
        const u32 lane_row = lane / CHUNKS, k = k0 + lane % CHUNKS * 32;
        const int left = k < p.k ? static_cast<int>(p.n - row0 - lane_row) : 0;
        const u8* from = p.codes + static_cast<u64>(row0 + lane_row) * (p.k / 2) + k / 2;
        const u64 stride = 32 / CHUNKS * static_cast<u64>(p.k / 2);
        const u32 to = base + lane_row * W_PITCH + (swizzled(lane % CHUNKS, lane_row) << 4);
#pragma unroll
        for (int i = 0; i < ROWS; i += 32 / CHUNKS) {
            if (i % 16 == 0 && i >= live) break;
            copy16(to + i * W_PITCH, from, i < left);
            from += stride;
        }
        constexpr int PIECES = STEP / 8;  // 16 bytes of X each, a row
        const u32 piece = lane % PIECES, column = k0 + piece * 8;
        const u16* x = p.x + static_cast<u64>(lane / PIECES) * p.k + column;
        u32 x_to = base + W_BYTES + SCALE_BYTES + lane / PIECES * X_PITCH + piece * 16;
#pragma unroll 1
        for (u32 row = lane / PIECES; row < p.m; row += 32 / PIECES) {
            copy16(x_to, x, column < p.k);
            x += 32 / PIECES * p.k;
            x_to += 32 / PIECES * X_PITCH;
        }
        if constexpr (FETCH == PLAIN) {
#pragma unroll
            for (int i = 0; i < LANE_ROWS; i++) {
                u32 row = lane + 32 * i;
                const float* from = p.scales.plain + ((min(row0 + row, most) * p.scale_stride + k0) >> p.block_shift);
                if constexpr (UNITS == 4)
                    copy16(base + W_BYTES + row * 16, from, true);
                else
                    copy8(base + W_BYTES + row * 8, from);
            }
        }
    };
    auto fetch_scales = [&](const Place& place, Pending& pending) {
        const u32 k0 = first_column(place);
        if (k0 >= p.k) return;
#pragma unroll
        for (int i = 0; i < (FETCH == PLAIN ? 0 : LANE_ROWS); i++) {
            u32 at = min(first_row(place) + lane + 32 * i, p.n - 1) * p.scale_stride + k0, block = at >> p.block_shift;
            if constexpr (FETCH == CODED) {
                pending.scale[i][0] = __ldg(p.scales.second + (block >> p.second_shift));
                pending.codes[i] = UNITS == 4 ? __ldg(reinterpret_cast<const u32*>(p.scales.codes + block))
                                              : __ldg(reinterpret_cast<const u16*>(p.scales.codes + block));
            } else {
#pragma unroll
                for (int j = 0; j < UNITS; j++)
                    pending.scale[i][FETCH == ANY ? j : 0] =
                        k0 + j * UNIT < p.k ? scale_of(p.scales, (at + j * UNIT) >> p.block_shift) : 0;
            }
        }
    };
    auto keep_scales = [&](const Pending& pending, u32 stage) {
        if (FETCH == PLAIN) return;
        float* to = reinterpret_cast<float*>(ring + stage * stage_bytes + W_BYTES);
#pragma unroll
        for (int i = 0; i < LANE_ROWS; i++)
#pragma unroll
            for (int j = 0; j < UNITS; j++)
                to[(lane + 32 * i) * UNITS + j] =
                    FETCH == CODED ? __fadd_rn(__fmul_rn(second_table[pending.codes[i] >> (8 * j) & 255],
                                                         pending.scale[i][0]), offset)
                                   : pending.scale[i][FETCH == ANY ? j : 0];
    };

    // The first stages: all copies go out before anything is waited for.
    Place next = {0, 0, 0};
    u32 filled = 0;
#pragma unroll 1
    for (u32 i = 1; i < p.stages; i++) {
        if (filled < fills) copy_operands(next), advance(next), filled++;
        asm volatile("cp.async.commit_group;");
    }
    Pending pending[MOST_STAGES - 1];
    if constexpr (FETCH == CODED) {
        Place place = {0, 0, 0};
#pragma unroll
        for (int i = 0; i < MOST_STAGES - 1; i++)
            if (i < filled) fetch_scales(place, pending[i]), advance(place);
    }
    {
        u32 bits = T::narrow(__ldg(p.codebook + lane % 16));
#pragma unroll 4
        for (u32 byte = warp; byte < 256; byte += WARPS) {
            u32 high = __shfl_sync(~0u, bits, byte >> 4), low = __shfl_sync(~0u, bits, byte & 15);
            *reinterpret_cast<u32*>(table + byte * PAIR_PITCH + lane * 4) = p.low_first ? low | high << 16 : high | low << 16;
        }
        if (FETCH == CODED && threadIdx.x < 256) second_table[threadIdx.x] = __ldg(p.scales.table + threadIdx.x);
    }
    __syncthreads();
    if constexpr (FETCH == CODED) {
#pragma unroll
        for (int i = 0; i < MOST_STAGES - 1; i++)
            if (i < filled) keep_scales(pending[i], i);
    } else if constexpr (FETCH == ANY) {
        Place place = {0, 0, 0};
#pragma unroll 1
        for (u32 i = 0; i < filled; i++) fetch_scales(place, pending[0]), keep_scales(pending[0], i), advance(place);
    }

    // The pair for a byte of a word. With a pitch of 256, its address is put together from bytes: the lane's place, and
    // above it the byte.
    const u32 place_of_lane = lane * 4;
    auto pair = [&](u32 word, int byte) {
        u32 at;
        if constexpr (PAIR_PITCH == 256)
            at = __byte_perm(word, place_of_lane, 0x5504 | byte << 4);
        else
            at = (byte == 0 ? word << 7 : word >> (8 * byte - 7)) & 0x7f80 | place_of_lane;
        return *reinterpret_cast<const u32*>(table + at);
    };
    u32 stage = 0, pending_stage = 0;
    bool is_pending = false;
#pragma unroll 1
    for (u32 group = 0; group < groups; group++) {
        float sum[TILES][HALVES][4] = {};
#pragma unroll 1
        for (u32 round = 0; round < rounds; round++) {
            // Everything but the newest stages - 2 groups has arrived.
            switch (p.stages) {
                case 2: asm volatile("cp.async.wait_group 0;" ::: "memory"); break;
                case 3: asm volatile("cp.async.wait_group 1;" ::: "memory"); break;
                case 4: asm volatile("cp.async.wait_group 2;" ::: "memory"); break;
                case 5: asm volatile("cp.async.wait_group 3;" ::: "memory"); break;
                default: asm volatile("cp.async.wait_group 4;" ::: "memory"); break;
            }
            if (is_pending) keep_scales(pending[0], pending_stage);
            __syncwarp();
            is_pending = filled < fills;
            if (is_pending) {
                // The stage read in the round before: every lane has passed the barrier above since.
                pending_stage = next.stage;
                copy_operands(next);
                fetch_scales(next, pending[0]);
                advance(next);
                filled++;
            }
            asm volatile("cp.async.commit_group;");

            const u8* at = ring + stage * stage_bytes;
            if (++stage == p.stages) stage = 0;
            if (round * WARPS + warp >= steps) continue;
            const u8* x = at + W_BYTES + SCALE_BYTES + g * X_PITCH + t * UNIT / 2;
            const float* scales = reinterpret_cast<const float*>(at + W_BYTES) + g * UNITS;
#pragma unroll
            for (int first = 0; first < UNITS; first += TOGETHER) {
                u32 b[TOGETHER][HALVES][2 * PRODUCTS] = {};
                u32 words[TOGETHER][TILES][2][2];
                float d[TOGETHER][TILES][HALVES][4] = {};
#pragma unroll
                for (int half = 0; half < HALVES; half++)
                    if (g + 8 * half < p.m)
#pragma unroll
                        for (int j = 0; j < TOGETHER; j++)
#pragma unroll
                            for (int i = 0; i < PRODUCTS / 2; i++)
                                *reinterpret_cast<uint4*>(&b[j][half][4 * i]) = *reinterpret_cast<const uint4*>(
                                    x + half * 8 * X_PITCH + (first + j) * UNIT * 2 + i * 16);
#pragma unroll
                for (int j = 0; j < TOGETHER; j++)
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            const u8* row = at + (16 * tile + 8 * i + g) * W_PITCH;
                            u32 unit = first + j;
                            if constexpr (UNIT == 64)
                                *reinterpret_cast<uint2*>(words[j][tile][i]) = *reinterpret_cast<const uint2*>(
                                    row + (swizzled(unit * 2 + t / 2, g) << 4) + t % 2 * 8);
                            else
                                words[j][tile][i][0] =
                                    *reinterpret_cast<const u32*>(row + (swizzled(unit, g) << 4) + t * 4);
                        }
#pragma unroll
                for (int i = 0; i < PRODUCTS; i++)
#pragma unroll
                    for (int j = 0; j < TOGETHER; j++)
#pragma unroll
                        for (int tile = 0; tile < TILES; tile++) {
                            u32 a[4];
#pragma unroll
                            for (int part = 0; part < 4; part++)
                                a[part] = pair(words[j][tile][part % 2][i / 2], i % 2 * 2 + part / 2);
#pragma unroll
                            for (int half = 0; half < HALVES; half++)
                                multiply<T>(d[j][tile][half], a, b[j][half][2 * i], b[j][half][2 * i + 1]);
                        }
#pragma unroll
                for (int j = 0; j < TOGETHER; j++)
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
                        float s0 = scales[16 * tile * UNITS + first + j];
                        float s1 = scales[(16 * tile + 8) * UNITS + first + j];
#pragma unroll
                        for (int half = 0; half < HALVES; half++)
#pragma unroll
                            for (int i = 0; i < 4; i++)
                                sum[tile][half][i] = fmaf(d[j][tile][half][i], i < 2 ? s0 : s1, sum[tile][half][i]);
                    }
            }
        }
        // The warps' sums over their parts of K, in a fixed order.
#pragma unroll
        for (int half = 0; half < HALVES; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 m = 8 * half + 2 * t + i % 2;
                if (m < p.m)
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++)
                        partial[(warp * p.m + m) * ROWS + 16 * tile + i / 2 * 8 + g] = sum[tile][half][i];
            }
        __syncthreads();
        for (u32 i = threadIdx.x; i < p.m * ROWS; i += 32 * WARPS) {
            u32 n = (first_tile + group * TILES) * 16 + i % ROWS;
            float total = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) total += partial[w * p.m * ROWS + i];
            if (n < min(last_tile * 16, p.n)) p.y[static_cast<u64>(i / ROWS) * p.n + n] = T::narrow(total);
        }
        __syncthreads();
    }
}

#define KERNEL(name, type, step, tiles, unit, halves, fetch)                                        \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)                                            \
        codebook_few_##name##_s##step##_t##tiles##_u##unit##_h##halves##_##fetch(const Few p) { \
        few<type, step, tiles, unit, halves, fetch>(p);                                             \
    }
#define KERNELS(name, type)                      \
    KERNEL(name, type, 256, 2, 64, 1, PLAIN)  \
    KERNEL(name, type, 256, 2, 64, 1, CODED)  \
    KERNEL(name, type, 128, 4, 64, 2, PLAIN)  \
    KERNEL(name, type, 128, 4, 64, 2, CODED)  \
    KERNEL(name, type, 128, 2, 64, 2, PLAIN)  \
    KERNEL(name, type, 128, 2, 64, 2, CODED)  \
    KERNEL(name, type, 128, 2, 64, 1, ANY)    \
    KERNEL(name, type, 128, 2, 64, 2, ANY)    \
    KERNEL(name, type, 128, 2, 32, 1, ANY)    \
    KERNEL(name, type, 128, 2, 32, 2, ANY)
KERNELS(bf16, BF16)
KERNELS(f16, F16)
