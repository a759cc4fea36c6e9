"""The operations of a Mamba block, a folder each: the public function, a naive reference, the implementations.

They know nothing of models or methods. Letters follow the Mamba paper (Gu and Dao, 2023, arXiv 2312.00752):

    B  batch          L  length           D  channels of the block (d_inner)     N  states a channel (d_state)
    u  input of the scan                  dt step size (Delta)                   A  state decay, negative
    B_t, C_t  input and output projections, one row of N a position              h  state, D x N a sequence
"""
