// Keyed dropout: whether an element stays is a hash of its row's bits and its column's (ops/keyed_dropout), once for
// each part; nothing is stored, the backward draws the same again.
//
// A thread owns four columns of a position. Macros: DTYPE.

struct Dropout {
    const elem* x;  // (rows, length, width); backward: the gradients of the parts, contiguous
    const int *rows, *columns;
    const elem* beside;  // backward: (rows, length, width), a gradient of x from elsewhere, may be null and may be out
    elem* out;           // forward: (parts, rows, length, width); backward: (rows, length, width)
    i64 x_row;
    int x_step, length, width, parts, positions, threshold;
};

__device__ __forceinline__ bool stays(int row, int column, int threshold) {
    u32 bits = (u32)(row ^ column) * 0x7FEB352Du;
    bits = (bits ^ bits >> 15) * 0x846CA68Bu;
    return (int)bits >= threshold;
}

#define VECTORS (p.width / 4)
#define EACH_VECTOR                                                                                       \
    for (i64 at = (i64)blockIdx.x * 256 + threadIdx.x; at < (i64)p.positions * VECTORS; at += (i64)gridDim.x * 256)

#ifdef ENTRY_dropout_forward
extern "C" __global__ void __launch_bounds__(256) dropout_forward(const __grid_constant__ Dropout p) {
    EACH_VECTOR {
        const int position = at / VECTORS, column = at % VECTORS * 4, row = p.rows[position];
        const Four x = load_four(p.x + position / p.length * p.x_row + (i64)(position % p.length) * p.x_step + column);
        for (int part = 0; part < p.parts; ++part) {
            const int4 columns = *(const int4*)(p.columns + part * p.width + column);
            Four out = x;
            if (!stays(row, columns.x, p.threshold)) out.v[0] = 0.0f;
            if (!stays(row, columns.y, p.threshold)) out.v[1] = 0.0f;
            if (!stays(row, columns.z, p.threshold)) out.v[2] = 0.0f;
            if (!stays(row, columns.w, p.threshold)) out.v[3] = 0.0f;
            store_four(p.out + ((i64)part * p.positions + position) * p.width + column, out);
        }
    }
}
#endif

#ifdef ENTRY_dropout_backward
extern "C" __global__ void __launch_bounds__(256) dropout_backward(const __grid_constant__ Dropout p) {
    EACH_VECTOR {
        const int position = at / VECTORS, column = at % VECTORS * 4, row = p.rows[position];
        const i64 at_x = (i64)position * p.width + column;
        Four sum = {};
        if (p.beside) sum = load_four(p.beside + at_x);
        for (int part = 0; part < p.parts; ++part) {
            const int4 columns = *(const int4*)(p.columns + part * p.width + column);
            const Four dout = load_four(p.x + ((i64)part * p.positions + position) * p.width + column);
            if (stays(row, columns.x, p.threshold)) sum.v[0] += dout.v[0];
            if (stays(row, columns.y, p.threshold)) sum.v[1] += dout.v[1];
            if (stays(row, columns.z, p.threshold)) sum.v[2] += dout.v[2];
            if (stays(row, columns.w, p.threshold)) sum.v[3] += dout.v[3];
        }
        store_four(p.out + at_x, sum);
    }
}
#endif
