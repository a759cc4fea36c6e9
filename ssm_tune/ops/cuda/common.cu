// Shared by all kernels: conversions, vector loads, the activation functions, reductions over lanes.

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

__device__ __forceinline__ float bfloat_to_float(u16 x) { return __uint_as_float((u32)x << 16); }

__device__ __forceinline__ float to_float(elem x) {
#if DTYPE == 0
    return x;
#elif DTYPE == 1
    return bfloat_to_float(x);
#else
    return half_to_float(x);
#endif
}

// A scalar of a dtype known at run time (0 float32, 1 bfloat16, 2 float16): per-channel weights, read once.
__device__ __forceinline__ float load_any(const void* from, i64 index, int dtype) {
    if (dtype == 0) return ((const float*)from)[index];
    u16 raw = ((const u16*)from)[index];
    return dtype == 1 ? bfloat_to_float(raw) : half_to_float(raw);
}

__device__ __forceinline__ void store_any(void* to, i64 index, int dtype, float x) {
    if (dtype == 0)
        ((float*)to)[index] = x;
    else
        ((u16*)to)[index] = (u16)(dtype == 1 ? floats_to_bfloats(x, 0.0f) : floats_to_halves(x, 0.0f));
}

struct Four {
    float v[4];
};

// Four neighbours at once: 16 bytes of float32, 8 bytes of the 16-bit dtypes; as they lie, and as numbers.
#if DTYPE == 0
typedef float4 Raw;
#else
typedef uint2 Raw;
#endif

__device__ __forceinline__ Raw load_raw(const elem* from) { return *(const Raw*)from; }

__device__ __forceinline__ Four unpacked(Raw raw) {
    Four out;
#if DTYPE == 0
    out.v[0] = raw.x, out.v[1] = raw.y, out.v[2] = raw.z, out.v[3] = raw.w;
#else
    out.v[0] = to_float((u16)(raw.x & 0xffffu)), out.v[1] = to_float((u16)(raw.x >> 16));
    out.v[2] = to_float((u16)(raw.y & 0xffffu)), out.v[3] = to_float((u16)(raw.y >> 16));
#endif
    return out;
}

__device__ __forceinline__ Four load_four(const elem* from) { return unpacked(load_raw(from)); }

__device__ __forceinline__ void store_four(elem* to, Four x) {
#if DTYPE == 0
    *(float4*)to = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
#elif DTYPE == 1
    *(uint2*)to = make_uint2(floats_to_bfloats(x.v[0], x.v[1]), floats_to_bfloats(x.v[2], x.v[3]));
#else
    *(uint2*)to = make_uint2(floats_to_halves(x.v[0], x.v[1]), floats_to_halves(x.v[2], x.v[3]));
#endif
}

// Four neighbours of a dtype known at run time, ``index`` a multiple of four.
__device__ __forceinline__ Four load_any_four(const void* from, i64 index, int dtype) {
    Four out;
    if (dtype == 0 && (u64)from % 16 == 0) {
        const float4 raw = ((const float4*)from)[index / 4];
        out.v[0] = raw.x, out.v[1] = raw.y, out.v[2] = raw.z, out.v[3] = raw.w;
    } else if (dtype == 1 && (u64)from % 8 == 0) {
        const uint2 raw = ((const uint2*)from)[index / 4];
        out.v[0] = bfloat_to_float((u16)(raw.x & 0xffffu)), out.v[1] = bfloat_to_float((u16)(raw.x >> 16));
        out.v[2] = bfloat_to_float((u16)(raw.y & 0xffffu)), out.v[3] = bfloat_to_float((u16)(raw.y >> 16));
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) out.v[i] = load_any(from, index + i, dtype);
    }
    return out;
}

// COUNT neighbours from shared memory, as wide as they allow.
template <int COUNT>
__device__ __forceinline__ void load_many(float (&out)[COUNT], const float* from) {
    if constexpr (COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            float4 raw = *(const float4*)(from + i);
            out[i] = raw.x, out[i + 1] = raw.y, out[i + 2] = raw.z, out[i + 3] = raw.w;
        }
    } else if constexpr (COUNT % 2 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            float2 raw = *(const float2*)(from + i);
            out[i] = raw.x, out[i + 1] = raw.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) out[i] = from[i];
    }
}

template <int COUNT>
__device__ __forceinline__ void store_many(float* to, const float (&x)[COUNT]) {
    if constexpr (COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) *(float4*)(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else if constexpr (COUNT % 2 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) *(float2*)(to + i) = make_float2(x[i], x[i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) to[i] = x[i];
    }
}

// A state as it is kept between forward and backward: NARROW in bfloat16, as the activations around it are.
#ifndef NARROW
#define NARROW 0
#endif
#if NARROW
typedef u16 chunk_state_t;
__device__ __forceinline__ float from_chunk_state(chunk_state_t x) { return bfloat_to_float(x); }

template <int COUNT>
__device__ __forceinline__ void store_chunk_state(chunk_state_t* to, const float (&x)[COUNT]) {
    if constexpr (COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4)
            *(uint2*)(to + i) = make_uint2(floats_to_bfloats(x[i], x[i + 1]), floats_to_bfloats(x[i + 2], x[i + 3]));
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) to[i] = (u16)floats_to_bfloats(x[i], 0.0f);
    }
}
#else
typedef float chunk_state_t;
__device__ __forceinline__ float from_chunk_state(chunk_state_t x) { return x; }

template <int COUNT>
__device__ __forceinline__ void store_chunk_state(chunk_state_t* to, const float (&x)[COUNT]) {
    store_many<COUNT>(to, x);
}
#endif

// e^x, with what the product with log2(e) was rounded by put back.
__device__ __forceinline__ float exp_close(float x) {
    const float t = x * LOG2E, rest = fmaf(x, 1.925963033e-8f, fmaf(x, LOG2E, -t)), y = exp2_fast(t);
    return t > -126.0f && t < 128.0f ? fmaf(y, rest * LN2, y) : y;  // else rest may be infinite
}

// e^x, as close as the dtype asks for.
__device__ __forceinline__ float exp_of(float x) { return DTYPE == 0 ? exp_close(x) : exp2_fast(x * LOG2E); }

// exp(step A), where A was multiplied by A_SCALE before: into base 2, but for float32.
constexpr float A_SCALE = DTYPE == 0 ? 1.0f : LOG2E, A_UNSCALE = DTYPE == 0 ? 1.0f : LN2;
__device__ __forceinline__ float scaled_A(float A, int log_A) { return (log_A ? -exp_close(A) : A) * A_SCALE; }
__device__ __forceinline__ float decay_of(float step, float A) {
    return DTYPE == 0 ? exp_of(step * A) : exp2_fast(step * A);
}

// log(1 + e^x) without losing the tails: e^-|x|, then log1p by a polynomial on [0, 1], which leaves the
// special-function unit to the scan's own exponentials. Relative error 1.6e-7, or 1e-5 where results are 16 bits wide.
__device__ __forceinline__ float softplus(float x) {
    float m = exp_of(-fabsf(x));
#if DTYPE == 0
    float p = -0.0031760570f;
    p = fmaf(p, m, 0.019542527f);
    p = fmaf(p, m, -0.056373613f);
    p = fmaf(p, m, 0.10543624f);
    p = fmaf(p, m, -0.15269667f);
    p = fmaf(p, m, 0.19663274f);
    p = fmaf(p, m, -0.24951616f);
    p = fmaf(p, m, 0.33329711f);
    p = fmaf(p, m, -0.49999893f);
    return fmaf(m * m, p, m) + fmaxf(x, 0.0f);
#else
    float p = -0.023443656f;
    p = fmaf(p, m, 0.10013973f);
    p = fmaf(p, m, -0.20907954f);
    p = fmaf(p, m, 0.32484958f);
    p = fmaf(p, m, -0.49931465f);
    p = fmaf(p, m, 0.99999059f);
    return fmaf(m, p, fmaxf(x, 0.0f));
#endif
}

__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + exp_of(-x)); }

// Each of WIDTH neighbouring lanes brings WIDTH values; lane i leaves with the sum of all lanes' i-th in v[0].
template <int WIDTH, int COUNT>
__device__ __forceinline__ void reduce_scatter(float (&v)[COUNT], int lane) {
#pragma unroll
    for (int mask = 1; mask < WIDTH; mask <<= 1) {
        bool upper = lane & mask;
#pragma unroll
        for (int i = 0; i < COUNT / (2 * mask); ++i) {
            float sent = upper ? v[2 * i] : v[2 * i + 1];
            float kept = upper ? v[2 * i + 1] : v[2 * i];
            v[i] = kept + exchange(sent, mask);
        }
    }
}

// The copy of one vector of four channels into shared memory, which the same thread will read.
__device__ __forceinline__ void copy_four(elem* to, const elem* from) { copy_async<4 * sizeof(elem)>(to, from); }

// B and C of one (position, state) lie side by side in shared memory, which hands 128 bytes a cycle to registers however
// many lanes ask alike. Where a lane has several channels to unpack for, 16-bit dtypes share one 32-bit word.
#ifndef PER
#define PER 1
#endif
#define PACKED (DTYPE != 0 && PER > 1)
#if !PACKED
typedef float2 BC;
__device__ __forceinline__ BC pack_bc(elem b, elem c, bool real) {
    return make_float2(real ? to_float(b) : 0.0f, real ? to_float(c) : 0.0f);
}
__device__ __forceinline__ float b_of(BC x) { return x.x; }
__device__ __forceinline__ float c_of(BC x) { return x.y; }
#else
typedef u32 BC;
__device__ __forceinline__ BC pack_bc(elem b, elem c, bool real) { return real ? (u32)b | (u32)c << 16 : 0u; }
#if DTYPE == 1
__device__ __forceinline__ float b_of(BC x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float c_of(BC x) { return __uint_as_float(x & 0xffff0000u); }
#else
__device__ __forceinline__ float b_of(BC x) { return half_to_float((u16)(x & 0xffffu)); }
__device__ __forceinline__ float c_of(BC x) { return half_to_float((u16)(x >> 16)); }
#endif
#endif

template <int COUNT>
__device__ __forceinline__ void load_bc(BC (&out)[COUNT], const BC* from) {
#if !PACKED
    float raw[2 * COUNT];
    load_many<2 * COUNT>(raw, (const float*)from);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) out[i] = make_float2(raw[2 * i], raw[2 * i + 1]);
#else
    float raw[COUNT];
    load_many<COUNT>(raw, (const float*)from);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) out[i] = __float_as_uint(raw[i]);
#endif
}
