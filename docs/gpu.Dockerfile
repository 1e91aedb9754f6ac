# paddlemix with its CUDA kernels; docs/gpu.md says how to build and run it. No GPU is needed to build it.

# ---- the kernels: one wheel, with a toolkit of Paddle's CUDA version and Paddle's CPU build, whose headers are the same
FROM nvidia/cuda:12.6.3-devel-ubuntu22.04 AS kernels
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev python3-venv g++ make \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir setuptools wheel paddlepaddle==3.3.1
COPY external_ops /src/external_ops
ARG PADDLEMIX_CUDA_ARCHS=""
RUN PADDLEMIX_WITH_CUDA=1 PADDLEMIX_CUDA_ARCHS="$PADDLEMIX_CUDA_ARCHS" \
    /build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels /src/external_ops

# ---- what runs: Paddle's GPU wheel brings CUDA's libraries, the driver comes from the host
FROM ubuntu:22.04
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv libgomp1 \
    && rm -rf /var/lib/apt/lists/*
ARG PADDLE_INDEX=https://www.paddlepaddle.org.cn/packages/stable/cu126/
RUN python3 -m venv /opt/paddlemix \
    && /opt/paddlemix/bin/pip install --no-cache-dir paddlepaddle-gpu==3.3.1 -i "$PADDLE_INDEX"
WORKDIR /paddlemix
COPY . .
RUN /opt/paddlemix/bin/pip install --no-cache-dir '.[serve]'
COPY --from=kernels /wheels /wheels
RUN /opt/paddlemix/bin/pip install --no-cache-dir --no-deps /wheels/*.whl && rm -r /wheels
ENV PATH=/opt/paddlemix/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
CMD ["paddlemix", "doctor"]
