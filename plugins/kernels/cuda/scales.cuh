// The scale of a block, stored as f32 or coded in 8 bits with a second level of scales and an offset.
#pragma once

struct Scales {
    const float* plain;   // one a block; null when the scales are coded
    const u8* codes;      // one a block
    const float* second;  // one a block of `second_block` blocks
    const float* table;   // 256
    const float* offset;  // 1
    u32 second_block;
};

// Blocks of a second level are most often a power of two, and a division takes longer than all the rest.
static __device__ __forceinline__ u32 second_of(const Scales& scales, u32 block) {
    const u32 blocks = scales.second_block;
    return blocks & (blocks - 1) ? block / blocks : block >> (31 - __clz(blocks));
}

// A product and a sum, each rounded (never contracted into one), as the layout says.
static __device__ __forceinline__ float scale_of(const Scales& scales, u32 block) {
    if (scales.plain) return __ldg(scales.plain + block);
    return __fadd_rn(__fmul_rn(__ldg(scales.table + __ldg(scales.codes + block)),
                               __ldg(scales.second + second_of(scales, block))),
                     __ldg(scales.offset));
}
