// Decoding: one position of the convolution for many rows. Row r continues from row source[r] of `before` and leaves its
// state in row r of `state`, so that beams change places without a pass of their own; it is idle where source[r] < 0.
// Without source row r continues from row r, and both may be one tensor.
//
// Macros: DTYPE.

struct ConvUpdate {
    const elem *x, *before;
    elem *state, *out;  // before and state: (rows, 3, channels), oldest first
    const i64* source;
    const void *weight, *bias;
    i64 x_row;
    int channels, weight_type, bias_type;
};

extern "C" __global__ void __launch_bounds__(128) conv_update(const __grid_constant__ ConvUpdate p) {
    const int channel = (blockIdx.x * 128 + threadIdx.x) * 4, row = blockIdx.y;
    if (channel >= p.channels) return;
    const i64 source = p.source ? p.source[row] : row;
    Four out = {};
    if (source < 0) {
        store_four(p.out + (i64)row * p.channels + channel, out);
        return;
    }
    const elem* before = p.before + source * 3 * p.channels + channel;
    elem* state = p.state + (i64)row * 3 * p.channels + channel;
    Four window[4];
#pragma unroll
    for (int k = 0; k < 3; ++k) window[k] = load_four(before + (i64)k * p.channels);
    window[3] = load_four(p.x + row * p.x_row + channel);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        float sum = p.bias ? load_any(p.bias, channel + c, p.bias_type) : 0.0f;
#pragma unroll
        for (int k = 0; k < 4; ++k)
            sum = fmaf(load_any(p.weight, (i64)(channel + c) * 4 + k, p.weight_type), window[k].v[c], sum);
        out.v[c] = sum * sigmoid(sum);
    }
#pragma unroll
    for (int k = 0; k < 3; ++k) store_four(state + (i64)k * p.channels, window[k + 1]);
    store_four(p.out + (i64)row * p.channels + channel, out);
}
