"""Always-sparse training: weights, gradients and optimiser state for active connections only, `SparseModel(..., storage="sparse")`."""
