// Dropout by a hash: an element is dropped where the bits of its position and its column, mixed, are below a threshold.
//
// Macros: DTYPE; VECTOR: 4 where rows can be read in fours, else 1. The hash is that of ops/keyed_dropout.py, bit for bit.

struct Dropout {
    const elem* x;
    elem* out;
    const int *rows, *columns;
    i64 x_row;  // elements between two rows of x; out is contiguous
    int rows_count, width, threshold, unused;
};

__device__ __forceinline__ bool stays(u32 row, u32 column, int threshold) {
    u32 bits = (row ^ column) * 0x7feb352du;
    bits = (bits ^ (bits >> 15)) * 0x846ca68bu;
    return (int)bits >= threshold;
}

extern "C" __global__ void __launch_bounds__(256) keyed_dropout(const __grid_constant__ Dropout p) {
    const u32 pieces = p.width / VECTOR, all = p.rows_count * pieces;  // below 2^31, as the host sees to
    for (u32 piece = blockIdx.x * 256 + threadIdx.x; piece < all; piece += gridDim.x * 256) {
        const u32 row = piece / pieces, column = (piece - row * pieces) * VECTOR;
        const u32 bits = (u32)p.rows[row];
        const elem* from = p.x + row * p.x_row + column;
        elem* to = p.out + (i64)row * p.width + column;
#if VECTOR == 4
        Four x = load_four(from);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (!stays(bits, (u32)p.columns[column + i], p.threshold)) x.v[i] = 0.0f;
        store_four(to, x);
#else
        *to = stays(bits, (u32)p.columns[column], p.threshold) ? *from : (elem)0;
#endif
    }
}
