// Decoding: one position of the scan for many rows. Row r continues from row source[r] of `before` and leaves its
// state in row r of `state`, so that beams change places without a pass of their own; it is idle where source[r] < 0.
// Without source row r continues from row r, and both may be one tensor.
//
// Macros: DTYPE, LANES, STATES, SOFTPLUS, HAS_Z, HAS_OFFSET.

struct StateUpdate {
    const elem *u, *dt, *z, *B, *C;
    const float *A, *before;
    const void *D, *dt_bias, *offset, *output_offset;
    float* state;  // before and state: (rows, channels, states)
    elem* out;
    const i64* source;
    i64 u_row, dt_row, z_row, B_row, C_row;
    int channels, states, D_type, bias_type, offset_type, output_type, log_A;
};

extern "C" __global__ void __launch_bounds__(128) state_update(const __grid_constant__ StateUpdate p) {
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
