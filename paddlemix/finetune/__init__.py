"""Training on conversations: packing, batching, and the parts that hold for any Qwen-VL."""
