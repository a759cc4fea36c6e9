// Causal depthwise convolution of width 4, bias and silu: out_t = silu(bias + sum over k of w_k x_{t-3+k}).
//
// A thread owns four channels and SPAN positions; what it needs beyond them it reads again (from the cache).
// Macros: DTYPE, SPAN, D_X, D_WEIGHT.

struct Conv {
    const elem *x, *initial, *dout;
    const void *weight, *bias;
    elem *out, *dx, *dinitial;
    float* dweight;  // (rows x spans, 5, channels): partial sums of the four taps and the bias
    i64 x_row, initial_row, dout_row, dx_row;
    int x_step, initial_step, dout_step, dx_step;
    int length, channels, weight_type, bias_type;
};

struct Taps {
    Four w[4], bias;
};

__device__ __forceinline__ Taps load_taps(const Conv& p, int channel) {
    Taps taps;
    taps.bias = p.bias ? load_any_four(p.bias, channel, p.bias_type) : Four{};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const Four own = load_any_four(p.weight, (i64)(channel + i) * 4, p.weight_type);
#pragma unroll
        for (int k = 0; k < 4; ++k) taps.w[k].v[i] = own.v[k];
    }
    return taps;
}

// The input at t, which may lie up to three positions before the first.
__device__ __forceinline__ Raw input_at(const Conv& p, int row, int t, int channel) {
    if (t >= 0 && t < p.length) return load_raw(p.x + row * p.x_row + (i64)t * p.x_step + channel);
    if (t < 0 && p.initial) return load_raw(p.initial + row * p.initial_row + (i64)(t + 3) * p.initial_step + channel);
    return {};
}

#ifdef ENTRY_conv_forward
extern "C" __global__ void __launch_bounds__(128) conv_forward(const __grid_constant__ Conv p) {
    const int channel = (blockIdx.x * 128 + threadIdx.x) * 4, row = blockIdx.z, start = blockIdx.y * SPAN;
    if (channel >= p.channels) return;
    Raw window[SPAN + 3];  // all asked for before any is used
#pragma unroll
    for (int i = 0; i < SPAN + 3; ++i) window[i] = input_at(p, row, start + i - 3, channel);
    const Taps taps = load_taps(p, channel);
    elem* out_at = p.out + ((i64)row * p.length + start) * p.channels + channel;
    Four x[4];
#pragma unroll
    for (int k = 0; k < 3; ++k) x[k + 1] = unpacked(window[k]);
#pragma unroll
    for (int i = 0; i < SPAN; ++i) {
        if (start + i >= p.length) break;
#pragma unroll
        for (int k = 0; k < 3; ++k) x[k] = x[k + 1];
        x[3] = unpacked(window[i + 3]);
        Four out;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            float sum = taps.bias.v[c];
#pragma unroll
            for (int k = 0; k < 4; ++k) sum = fmaf(taps.w[k].v[c], x[k].v[c], sum);
            out.v[c] = sum * sigmoid(sum);
        }
        store_four(out_at + (i64)i * p.channels, out);
    }
}
#endif

#ifdef ENTRY_conv_backward
extern "C" __global__ void __launch_bounds__(128) conv_backward(const __grid_constant__ Conv p) {
    const int channel = (blockIdx.x * 128 + threadIdx.x) * 4, row = blockIdx.z, start = blockIdx.y * SPAN;
    if (channel >= p.channels) return;
    const Taps taps = load_taps(p, channel);
    Four window[4], inner[4] = {}, dweight[4] = {}, dbias = {};  // inner: gradients before the silu, newest last
    Raw x_raw[AHEAD], dout_raw[AHEAD];                            // asked for so many positions ahead
    const auto ask = [&](int i) {
        const int t = start + i;
        x_raw[i % AHEAD] = input_at(p, row, t, channel);
        dout_raw[i % AHEAD] = Raw{};
        if (t < p.length) dout_raw[i % AHEAD] = load_raw(p.dout + row * p.dout_row + (i64)t * p.dout_step + channel);
    };
#pragma unroll
    for (int k = 0; k < 3; ++k) window[k + 1] = unpacked(input_at(p, row, start + k - 3, channel));
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) ask(i);
    constexpr int UNROLL = SPAN > 16 ? AHEAD : SPAN + 3;
#pragma unroll UNROLL
    for (int i = 0; i < SPAN + 3; ++i) {
        const int t = start + i;
#pragma unroll
        for (int k = 0; k < 3; ++k) window[k] = window[k + 1], inner[k] = inner[k + 1];
        window[3] = unpacked(x_raw[i % AHEAD]);
        const Four dout = unpacked(dout_raw[i % AHEAD]);
        if (i + AHEAD < SPAN + 3) ask(i + AHEAD);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            float sum = taps.bias.v[c];
#pragma unroll
            for (int k = 0; k < 4; ++k) sum = fmaf(taps.w[k].v[c], window[k].v[c], sum);
            const float s = sigmoid(sum), g = dout.v[c] * fmaf(sum * s, 1.0f - s, s);
            inner[3].v[c] = g;
            if (D_WEIGHT && i < SPAN) {
                dbias.v[c] += g;
#pragma unroll
                for (int k = 0; k < 4; ++k) dweight[k].v[c] = fmaf(g, window[k].v[c], dweight[k].v[c]);
            }
        }
        // the position three back now has all four gradients that it feeds
        if (D_X && (i >= 3 || start == 0) && t - 3 < p.length) {
            Four dx;
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                float sum = 0.0f;
#pragma unroll
                for (int k = 0; k < 4; ++k) sum = fmaf(taps.w[k].v[c], inner[3 - k].v[c], sum);
                dx.v[c] = sum;
            }
            if (i >= 3)
                store_four(p.dx + row * p.dx_row + (i64)(t - 3) * p.dx_step + channel, dx);
            else if (p.dinitial)
                store_four(p.dinitial + ((i64)row * 3 + i) * p.channels + channel, dx);
        }
    }
    if (D_WEIGHT) {
        float* to = p.dweight + ((i64)row * gridDim.y + blockIdx.y) * 5 * p.channels + channel;
#pragma unroll
        for (int k = 0; k < 4; ++k) store_many<4>(to + (i64)k * p.channels, dweight[k].v);
        store_many<4>(to + (i64)4 * p.channels, dbias.v);
    }
}
#endif
