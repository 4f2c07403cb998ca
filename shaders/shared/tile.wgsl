// What the kernels share that multiply tiles through workgroup memory: sums over k of x[row, k] * w[column, k]. A workgroup
// computes TILE_M rows x TILE_N columns, a thread TM x TN of them, in steps of STEP k. F16: workgroup memory of f16, half
// the memory and half its traffic; sums in f32 all the same, operands clamped to the range of f16.
//
// A staged vec4 is DEPTH k of HEIGHT neighbouring rows of x, or columns of w. DEPTH 4 is what a load brings, stored as
// it came; the price is that a thread holds four k of its columns at a time, 16 registers for TN 4. For TN 8 and f16 that
// is more than there are, so it is DEPTH 2: two loads exchange halves (two swaps), and registers for two k do.
// Every thread stages as many vec4s of x as the others, and of w: nothing branches.
//
// Line after line of DEPTH k lies in memory, x first. A vec4 is column t of row i of its line if it starts at row
// t * 4 + i * HEIGHT of the tile, so that threads next to each other read vec4s next to each other. No padding: a step is
// 16 KiB for 128 x 128, all that WebGPU guarantees. Instead column t is kept at t ^ (k / 4 * SPREAD): the four lanes that
// load one row then store to distinct banks (8 columns of 16 bytes or 16 of 8 bytes fill all 32).
//
// RADV, navi21, matmul 64 x 64, f32, a step of 16 with its loads: 512 FMA, 24 other vector instructions (14 of them
// swizzle), 52 of workgroup memory, 4 loads; 64 registers, 16 waves.
// Tried: blocks of 4 x 4 transposed before they are stored, x by half the threads and w by the others: 16 moves more, each
// instruction of the two loads issued twice (64 x 64 0.843 of multiply-adds, now 0.865; 128 x 64 0.793, now 0.869).
// Swizzled columns worked out before the loop: some 10 instructions less, but 72 registers and 14 waves. DEPTH 4 for all:
// 112 registers for 128 x 128. DEPTH 2 for 64 x 64: 0.861. F16 with the loop over q unrolled: 72 registers, 14 waves.
#define F16 0
#define STEP 16
#define DEPTH (4 - 2 * (TN > 4 || F16))
#define HEIGHT (4 / DEPTH)
#define LINES HEIGHT
#define THREADS (TILE_M * TILE_N / (TM * TN))
// Loads along a row, rounds of loads, and how far apart the rows of two rounds are.
#define QUADS (STEP / 4)
#define LOADS_X (TILE_M * DEPTH * QUADS / 4 / THREADS)
#define LOADS_W ((TILE_N * DEPTH * QUADS / 4 + THREADS - 1) / THREADS)
#define NEXT_X (THREADS * 4 / QUADS / TILE_M * HEIGHT)
#define NEXT_W (THREADS * 4 / QUADS / TILE_N * HEIGHT)
#define SPREAD (2 + 2 * F16)
// Columns of a line.
#define WIDE_X (TILE_M / 4)
#define WIDE_W (TILE_N / 4)
// Where w starts.
#define OF_W (STEP / 4 * TILE_M)
// A thread's rows lie in TM / 4 columns of x: NEAR * ty and every FAR-th from there. With the wider SPREAD of f16, a
// column far away could change places with the first.
#if F16
#define NEAR (TM / 4)
#define FAR 1
#else
#define NEAR 1
#define FAR (TILE_M / TM)
#endif

alias Four = vec4<f#{32 - 16 * F16}>;
var<workgroup> staged: array<Four, #{STEP / 4 * (TILE_M + TILE_N)}>;

fn narrow(v: vec4<f32>) -> Four {
#if F16
    return Four(clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
#else
    return v;
#endif
}
