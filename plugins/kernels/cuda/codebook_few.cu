// Y = X · Wᵀ for 1 to 16 rows of X and W in a block codebook of 4 bits: bound by reading W once.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "scales.cuh"

// A block of threads owns 16-row tiles of W, TILES at a time; its warps share out K in steps of 256. Each warp has a
// pipeline of its own (cp.async, no barrier) that runs on across tiles, so memory is never left waiting for arithmetic.
//
// A byte holds two weights that follow each other in K, which is just what a register of the tensor core's operand
// wants: one lookup in a table of 256 pairs, kept once a lane so that no two lanes meet in a bank. Codes are rounded to
// the element type, products summed in f32, and each block's sum multiplied with its scale in f32. The order of K
// within a block is permuted alike in both operands, so that a lane's codes lie together.

static constexpr int WARPS = 8;
static constexpr int STEP = 256;               // K a warp and step
static constexpr int X_PITCH = STEP * 2 + 16;  // bytes a row of X in a stage, spread over the banks
static constexpr int MOST_STAGES = 6;

struct Few {
    u16* y;
    const u16* x;
    const u8* codes;
    const float* codebook;
    Scales scales;
    u32 m, n, k;
    u32 scale_stride;  // elements between the blocks of one row and the next: k where blocks are flat
    u32 block_shift;
    u32 low_first;
    u32 vectors;       // whether a row's scales of one step lie together, aligned, under one scale of the second level
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

template <class T>
static __device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (T::BRAIN)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// UNIT: elements of a row that share a scale (the block, at most 64). HALVES: 1 for up to 8 rows of X, 2 for up to 16.
template <class T, int TILES, int UNIT, int HALVES>
static __device__ __forceinline__ void few(const Few& p) {
    constexpr int ROWS = 16 * TILES;
    constexpr int UNITS = STEP / UNIT;
    constexpr int PRODUCTS = UNIT / 16;      // tensor core instructions a unit and tile
    constexpr int LANE_ROWS = ROWS / 32;     // rows whose scales a lane fetches
    constexpr int W_BYTES = ROWS * STEP / 2;
    constexpr int SCALE_BYTES = ROWS * UNITS * 4;
    __shared__ __align__(128) u32 table[256 * 32];
    __shared__ float second_table[256];
    extern __shared__ __align__(128) u8 shared[];

    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const u32 stage_bytes = W_BYTES + SCALE_BYTES + p.m * X_PITCH;
    float* const partial = reinterpret_cast<float*>(shared);  // [WARPS][m][ROWS]
    u8* const ring = shared + WARPS * p.m * ROWS * 4 + warp * p.stages * stage_bytes;

    const u32 tiles = (p.n + 15) / 16;
    const u32 first_tile = static_cast<u32>(static_cast<u64>(tiles) * blockIdx.x / gridDim.x);
    const u32 last_tile = static_cast<u32>(static_cast<u64>(tiles) * (blockIdx.x + 1) / gridDim.x);
    const u32 groups = (last_tile - first_tile + TILES - 1) / TILES;
    const u32 steps = (p.k + STEP - 1) / STEP;
    const u32 rounds = (steps + WARPS - 1) / WARPS;
    const u32 fills = groups * rounds;

    // Coded scales on their way: the codes of a row's units and their scale of the second level; or finished scales.
    struct Pending {
        float scale[LANE_ROWS][UNITS];
        u32 codes[LANE_ROWS][UNITS / 4];
    };
    const bool plain = p.scales.plain != nullptr;
    const float offset = plain ? 0 : __ldg(p.scales.offset);

    // Where the next fill reads; it runs ahead of the arithmetic.
    u32 fill = 0, fill_group = 0, fill_round = 0, fill_stage = 0;
    auto start_fill = [&](Pending& pending) {
        const u32 step = fill_round * WARPS + warp, row0 = (first_tile + fill_group * TILES) * 16;
        const u32 k0 = step * STEP, most = p.n - 1, live = (last_tile - first_tile - fill_group * TILES) * 16;
        const u32 base = shared_address(ring + fill_stage * stage_bytes);
        if (k0 < p.k) {
            // Eight lanes a row. Rows 1 to 3 of every 4 take their 32-byte pieces in another order, so that 8-byte reads
            // of 4 rows touch every bank once.
            const u32 chunk = lane % 8, k = k0 + chunk * 32;
            const bool inside = k < p.k;
            const u8* from = p.codes + (inside ? k : 0) / 2;
#pragma unroll
            for (int i = 0; i < ROWS / 4; i++) {
                u32 row = lane / 8 + 4 * i;
                if (i % 4 == 0 && 4 * i >= live) break;
                copy16(base + row * 128 + ((chunk ^ (row % 4 * 2)) << 4),
                       from + static_cast<u64>(min(row0 + row, most)) * (p.k / 2), inside);
            }
            for (u32 at = lane; at < p.m * 32; at += 32) {
                u32 row = at / 32, column = k0 + lane * 8;
                bool inside = column < p.k;
                copy16(base + W_BYTES + SCALE_BYTES + row * X_PITCH + lane * 16,
                       p.x + static_cast<u64>(row) * p.k + (inside ? column : 0), inside);
            }
#pragma unroll
            for (int i = 0; i < LANE_ROWS; i++) {
                u32 row = lane + 32 * i, n = min(row0 + row, most);
                u32 block = (n * p.scale_stride + k0) >> p.block_shift;
                if (p.vectors && plain) {
#pragma unroll
                    for (int j = 0; j < UNITS; j += 4)
                        copy16(base + W_BYTES + (row * UNITS + j) * 4, p.scales.plain + block + j, true);
                } else if (p.vectors) {
                    pending.scale[i][0] = __ldg(p.scales.second + block / p.scales.second_block);
#pragma unroll
                    for (int j = 0; j < UNITS; j += 4)
                        pending.codes[i][j / 4] = __ldg(reinterpret_cast<const u32*>(p.scales.codes + block + j));
                } else {
#pragma unroll
                    for (int j = 0; j < UNITS; j++) {
                        u32 k = k0 + j * UNIT;
                        pending.scale[i][j] =
                            k < p.k ? scale_of(p.scales, (n * p.scale_stride + k) >> p.block_shift) : 0;
                    }
                }
            }
        }
        fill++;
        if (++fill_round == rounds) fill_round = 0, fill_group++;
        if (++fill_stage == p.stages) fill_stage = 0;
    };
    auto finish_fill = [&](const Pending& pending, u32 stage) {
        if (p.vectors && plain) return;
        float* to = reinterpret_cast<float*>(ring + stage * stage_bytes + W_BYTES);
#pragma unroll
        for (int i = 0; i < LANE_ROWS; i++)
#pragma unroll
            for (int j = 0; j < UNITS; j++) {
                float value = pending.scale[i][p.vectors ? 0 : j];
                if (p.vectors)
                    value = __fadd_rn(__fmul_rn(second_table[pending.codes[i][j / 4] >> (8 * (j % 4)) & 255], value), offset);
                to[(lane + 32 * i) * UNITS + j] = value;
            }
    };

    // The first stages: all copies go out before anything is waited for.
    Pending first[MOST_STAGES - 1];
#pragma unroll
    for (int i = 0; i < MOST_STAGES - 1; i++) {
        if (i < static_cast<int>(p.stages) - 1) {
            if (fill < fills) start_fill(first[i]);
            asm volatile("cp.async.commit_group;");
        }
    }
    {
        u32 bits = T::narrow(__ldg(p.codebook + lane % 16));
#pragma unroll 4
        for (u32 byte = warp; byte < 256; byte += WARPS) {
            u32 high = __shfl_sync(~0u, bits, byte >> 4), low = __shfl_sync(~0u, bits, byte & 15);
            table[byte * 32 + lane] = p.low_first ? low | high << 16 : high | low << 16;
        }
        if (!plain) second_table[threadIdx.x] = __ldg(p.scales.table + threadIdx.x);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < MOST_STAGES - 1; i++)
        if (i < static_cast<int>(p.stages) - 1 && i < static_cast<int>(fills)) finish_fill(first[i], i);

    // The pair for byte `shift / 8` of a word; the table's address is a constant of the instruction.
    auto pair = [&](u32 word, int byte) {
        u32 at = byte == 0 ? word << 7 : word >> (8 * byte - 7);
        return *reinterpret_cast<const u32*>(reinterpret_cast<const u8*>(table) + ((at & 0x7f80) | lane * 4));
    };
    Pending pending;
    u32 stage = 0, pending_stage = 0;
    bool is_pending = false;
    for (u32 group = 0; group < groups; group++) {
        float sum[TILES][HALVES][4] = {};
        for (u32 round = 0; round < rounds; round++) {
            // Everything but the newest stages - 2 groups has arrived.
            switch (p.stages) {
                case 2: asm volatile("cp.async.wait_group 0;" ::: "memory"); break;
                case 3: asm volatile("cp.async.wait_group 1;" ::: "memory"); break;
                case 4: asm volatile("cp.async.wait_group 2;" ::: "memory"); break;
                case 5: asm volatile("cp.async.wait_group 3;" ::: "memory"); break;
                default: asm volatile("cp.async.wait_group 4;" ::: "memory"); break;
            }
            if (is_pending) finish_fill(pending, pending_stage);
            __syncwarp();
            is_pending = fill < fills;
            if (is_pending) {
                // The stage read in the round before: every lane has passed the barrier above since.
                pending_stage = fill_stage;
                start_fill(pending);
            }
            asm volatile("cp.async.commit_group;");

            const u8* at = ring + stage * stage_bytes;
            if (++stage == p.stages) stage = 0;
            if (round * WARPS + warp >= steps) continue;
            const u8* x = at + W_BYTES + SCALE_BYTES + g * X_PITCH + t * UNIT / 2;
            const float* scales = reinterpret_cast<const float*>(at + W_BYTES) + g * UNITS;
#pragma unroll
            for (int unit = 0; unit < UNITS; unit++) {
                u32 b[HALVES][2 * PRODUCTS] = {};
#pragma unroll
                for (int half = 0; half < HALVES; half++)
                    if (g + 8 * half < p.m)
#pragma unroll
                        for (int i = 0; i < PRODUCTS / 2; i++)
                            *reinterpret_cast<uint4*>(&b[half][4 * i]) =
                                *reinterpret_cast<const uint4*>(x + half * 8 * X_PITCH + unit * UNIT * 2 + i * 16);
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    u32 words[2][2];
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        u32 row = 16 * tile + 8 * i + g;
                        if constexpr (UNIT == 64) {
                            *reinterpret_cast<uint2*>(words[i]) = *reinterpret_cast<const uint2*>(
                                at + row * 128 + (((unit * 2 + t / 2) ^ (g % 4 * 2)) << 4) + t % 2 * 8);
                        } else {
                            words[i][0] =
                                *reinterpret_cast<const u32*>(at + row * 128 + ((unit ^ (g % 4 * 2)) << 4) + t * 4);
                        }
                    }
                    float d[HALVES][4] = {};
#pragma unroll
                    for (int i = 0; i < PRODUCTS; i++) {
                        u32 a[4];
#pragma unroll
                        for (int j = 0; j < 4; j++) a[j] = pair(words[j % 2][i / 2], i % 2 * 2 + j / 2);
#pragma unroll
                        for (int half = 0; half < HALVES; half++)
                            multiply<T>(d[half], a, b[half][2 * i], b[half][2 * i + 1]);
                    }
                    float s0 = scales[16 * tile * UNITS + unit], s1 = scales[(16 * tile + 8) * UNITS + unit];
#pragma unroll
                    for (int half = 0; half < HALVES; half++)
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            sum[tile][half][i] = fmaf(d[half][i], i < 2 ? s0 : s1, sum[tile][half][i]);
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

#define KERNEL(name, type, tiles, unit, halves)                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)              \
        codebook_few_##name##_t##tiles##_u##unit##_h##halves(const Few p) {  \
        few<type, tiles, unit, halves>(p);                                   \
    }
#define KERNELS(name, type)     \
    KERNEL(name, type, 2, 64, 1) \
    KERNEL(name, type, 4, 64, 1) \
    KERNEL(name, type, 2, 64, 2) \
    KERNEL(name, type, 4, 64, 2) \
    KERNEL(name, type, 2, 32, 1) \
    KERNEL(name, type, 2, 32, 2)
KERNELS(bf16, BF16)
KERNELS(f16, F16)
