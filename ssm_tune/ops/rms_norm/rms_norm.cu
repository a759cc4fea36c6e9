// Root-mean-square norm of a residual stream, with the sum of the stream and a block's output before it:
// s = residual + added;  y = s / sqrt(mean(s^2) + eps) * weight.
//
// A block takes whole rows, one after another; a thread keeps its PARTS vectors of four in registers.
// Macros: DTYPE (of y, added and dy), WIDE_STREAM (the stream is float32 whatever DTYPE), PARTS, HAS_ADDED, D_WEIGHT.

#define THREADS 256

#if WIDE_STREAM
typedef float stream;
#else
typedef elem stream;
#endif

struct Norm {
    const stream *residual, *dsum;  // dsum: the gradient that reaches s from elsewhere, may be null
    const elem *added, *dy;
    const void* weight;
    stream *sum, *dstream;
    elem *y, *dadded;
    float* dweight;  // (blocks, width): partial sums
    i64 rows;
    int width, weight_type;
    float eps;
};

__device__ __forceinline__ Four load_stream(const stream* from) {
#if WIDE_STREAM
    Four out;
    load_many<4>(out.v, from);
    return out;
#else
    return load_four(from);
#endif
}

__device__ __forceinline__ void store_stream(stream* to, const Four& x) {
#if WIDE_STREAM
    store_many<4>(to, x.v);
#else
    store_four(to, x);
#endif
}

// The sum of x over the block, the same bits in every thread.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
#pragma unroll
    for (int mask = 16; mask >= 1; mask >>= 1) x += exchange(x, mask);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < THREADS / 32; ++w) sum += scratch[w];
    return sum;
}

#ifdef ENTRY_norm_forward
extern "C" __global__ void __launch_bounds__(THREADS) norm_forward(const __grid_constant__ Norm p) {
    extern __shared__ float4 shared[];
    for (i64 row = blockIdx.x; row < p.rows; row += gridDim.x) {
        Four s[PARTS], weight[PARTS];
        float squares = 0.0f;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            const int column = (part * THREADS + threadIdx.x) * 4;
            if (column >= p.width) break;
            const i64 at = row * p.width + column;
            weight[part] = load_any_four(p.weight, column, p.weight_type);
            s[part] = load_stream(p.residual + at);
#if HAS_ADDED
            const Four added = load_four(p.added + at);
#pragma unroll
            for (int i = 0; i < 4; ++i) s[part].v[i] += added.v[i];
            store_stream(p.sum + at, s[part]);
            s[part] = load_stream(p.sum + at);  // as rounded: the backward sees no other
#endif
#pragma unroll
            for (int i = 0; i < 4; ++i) squares = fmaf(s[part].v[i], s[part].v[i], squares);
        }
        const float scale = rsqrtf(block_sum(squares, (float*)shared) / (float)p.width + p.eps);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            const int column = (part * THREADS + threadIdx.x) * 4;
            if (column >= p.width) break;
            Four y;
#pragma unroll
            for (int i = 0; i < 4; ++i) y.v[i] = s[part].v[i] * scale * weight[part].v[i];
            store_four(p.y + row * p.width + column, y);
        }
    }
}
#endif

#ifdef ENTRY_norm_backward
extern "C" __global__ void __launch_bounds__(THREADS) norm_backward(const __grid_constant__ Norm p) {
    extern __shared__ float4 shared[];
    Four dweight[PARTS] = {};
    for (i64 row = blockIdx.x; row < p.rows; row += gridDim.x) {
        Four s[PARTS], dy[PARTS], weight[PARTS];
        float squares = 0.0f, products = 0.0f;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            const int column = (part * THREADS + threadIdx.x) * 4;
            if (column >= p.width) break;
            const i64 at = row * p.width + column;
            s[part] = load_stream(p.residual + at);
            dy[part] = load_four(p.dy + at);
            weight[part] = load_any_four(p.weight, column, p.weight_type);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                squares = fmaf(s[part].v[i], s[part].v[i], squares);
                products = fmaf(s[part].v[i] * dy[part].v[i], weight[part].v[i], products);
            }
        }
        const float scale = rsqrtf(block_sum(squares, (float*)shared) / (float)p.width + p.eps);
        const float pull = block_sum(products, (float*)shared) / (float)p.width * scale * scale * scale;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            const int column = (part * THREADS + threadIdx.x) * 4;
            if (column >= p.width) break;
            const i64 at = row * p.width + column;
            Four ds = {};
            if (p.dsum) ds = load_stream(p.dsum + at);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float through = dy[part].v[i] * scale;
                ds.v[i] += fmaf(through, weight[part].v[i], -s[part].v[i] * pull);
                if (D_WEIGHT) dweight[part].v[i] = fmaf(through, s[part].v[i], dweight[part].v[i]);
            }
            if (p.dstream) store_stream(p.dstream + at, ds);
            if (HAS_ADDED && p.dadded) store_four(p.dadded + at, ds);
        }
    }
    if (D_WEIGHT) {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            const int column = (part * THREADS + threadIdx.x) * 4;
            if (column < p.width) store_many<4>(p.dweight + (i64)blockIdx.x * p.width + column, dweight[part].v);
        }
    }
}
#endif
