// Decoding: one position of the convolution and of the scan for many rows. Row r goes on from row source[r] of `before`
// and leaves its state in row r of `state`, so that beams change places without a pass of their own; it is idle where
// source[r] < 0. Without source row r goes on from row r, and both may be one tensor.
//
// Macros: DTYPE; for the scan LANES, STATES, SOFTPLUS, HAS_Z, HAS_OFFSET.

struct ConvStep {
    const elem *x, *before;
    elem *state, *out;  // before and state: (rows, 3, channels), oldest first
    const i64* source;
    const void *weight, *bias;
    i64 x_row;
    int channels, weight_type, bias_type, unused;
};

#ifdef ENTRY_conv_step
extern "C" __global__ void __launch_bounds__(128) conv_step(const __grid_constant__ ConvStep p) {
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
#endif

struct ScanStep {
    const elem *u, *dt, *z, *B, *C;
    const float *A, *before;
    const void *D, *dt_bias, *offset, *output_offset;
    float* state;  // before and state: (rows, channels, states)
    elem* out;
    const i64* source;
    i64 u_row, dt_row, z_row, B_row, C_row;
    int channels, states, D_type, bias_type, offset_type, output_type, log_A;
};

#ifdef ENTRY_scan_step
extern "C" __global__ void __launch_bounds__(128) scan_step(const __grid_constant__ ScanStep p) {
    const int lane = threadIdx.x % LANES, row = blockIdx.y;
    const int wanted = blockIdx.x * (128 / LANES) + threadIdx.x / LANES, channel = min(wanted, p.channels - 1);
    const i64 source = p.source ? p.source[row] : row;
    if (source < 0) {
        if (lane == 0) store_any(p.out, (i64)row * p.channels + channel, DTYPE, 0.0f);
        return;
    }
    const bool full = p.states == LANES * STATES;
    const int first = lane * STATES;
    const i64 weights = (i64)channel * p.states + first;
    const float* before = p.before + source * p.channels * p.states + weights;
    float* state = p.state + (i64)row * p.channels * p.states + weights;
    float h[STATES], A[STATES];
    if (full) {
        load_many<STATES>(h, before);
        load_many<STATES>(A, p.A + weights);
    } else {
#pragma unroll
        for (int j = 0; j < STATES; ++j) {
            const bool real = first + j < p.states;
            h[j] = real ? before[j] : 0.0f;
            A[j] = real ? p.A[weights + j] : 0.0f;
        }
    }
    const float u = to_float(p.u[row * p.u_row + channel]);
    float step = to_float(p.dt[row * p.dt_row + channel]);
    if (p.dt_bias) step += load_any(p.dt_bias, channel, p.bias_type);
    if (SOFTPLUS) step = softplus(step);
    float y = 0.0f;
#pragma unroll
    for (int j = 0; j < STATES; ++j) {
        const int n = first + j;
        if (!full && n >= p.states) break;
        const float c = to_float(p.C[row * p.C_row + n]);
        h[j] = fmaf(decay_of(step, scaled_A(A[j], p.log_A)), h[j], step * u * to_float(p.B[row * p.B_row + n]));
        y = fmaf(c, h[j], y);
        if (HAS_OFFSET) y = fmaf(c, load_any(p.offset, weights + j, p.offset_type), y);
    }
    if (wanted < p.channels) {
        if (full) {
            store_many<STATES>(state, h);
        } else {
#pragma unroll
            for (int j = 0; j < STATES; ++j)
                if (first + j < p.states) state[j] = h[j];
        }
    }
#pragma unroll
    for (int mask = 1; mask < LANES; mask <<= 1) y += exchange(y, mask);
    if (p.output_offset) y += load_any(p.output_offset, channel, p.output_type);
    if (p.D) y = fmaf(load_any(p.D, channel, p.D_type), u, y);
    if (HAS_Z) {
        const float z = to_float(p.z[row * p.z_row + channel]);
        y *= z * sigmoid(z);
    }
    if (lane == 0 && wanted < p.channels) store_any(p.out, (i64)row * p.channels + channel, DTYPE, y);
}
#endif
