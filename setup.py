"""Packaging of paddlemix.

Paddle itself is an extra: the CPU and the GPU wheel own the same folder, so pip must not choose between them.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# PaddleNLP 3.0.0b4 states its own requirements too loosely: with newer aistudio-sdk, datasets, pyarrow or numpy it does
# not import. The upper bounds below are what makes one plain resolve give a working set.
INSTALL_REQUIRES = [
    "paddlenlp==3.0.0b4",
    "aistudio-sdk<0.3",
    "datasets<3",
    "pyarrow<19",
    "huggingface_hub>=0.23",
    "numpy>=1.21,<2",
    "pillow>=10.1",
    "matplotlib>=3.6",
    "safetensors>=0.6",
    "tiktoken>=0.7",
    "tqdm>=4.60",
]

SERVE = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "prometheus-client>=0.20", "llguidance>=1.9"]

# Benchmarks: caption scorers, their tokens without Java, edit distances, MMBench's tables, a small set of drawn images.
EVALUATE = ["pycocoevalcap>=1.2", "nltk>=3.8", "rapidfuzz>=3.9", "openpyxl>=3.1", "easy-vqa>=1.0"]

EXTRAS_REQUIRE = {
    "cpu": ["paddlepaddle>=3.0,<4"],
    "gpu": ["paddlepaddle-gpu>=3.0,<4"],
    # images of iPhones (HEIC)
    "heif": ["pillow-heif>=0.18"],
    # llguidance: answers held to a grammar
    "serve": SERVE,
    # several replicas behind one address; Ray is made for Python 3.10 and newer
    "ray": ["ray[serve]>=2.60; python_version>='3.10'", "pyyaml>=6"],
    "evaluate": EVALUATE,
    # dashscope holds the published Qwen-VL vocabulary (qwen.tiktoken), which the tokenizer tests compare against.
    # openai and anthropic are clients of the server, selenium drives the browser that its page is tested in.
    "test": [
        "pytest>=7.4",
        "pytest-xdist>=3.3",
        "hypothesis>=6.80",
        "dashscope",
        "openai>=1.50",
        "anthropic>=0.40",
        "selenium>=4.20",
        *SERVE,
        *EVALUATE,
    ],
    "dev": ["ruff>=0.6", "mypy>=1.11", "types-tqdm", "pdoc>=14"],
}

# Weights, tokenizers, fonts, glyphs and the licenses that travel with them; the web page; py.typed: annotations count.
PACKAGE_DATA = [
    "**/*.json",
    "**/*.tiktoken",
    "**/*.safetensors",
    "**/*.png",
    "**/*.ttf",
    "**/*.otf",
    "**/*.txt",
    "**/*.md",
    "serving/page/*",
    "py.typed",
]


def read_version() -> str:
    """The version as written in ``paddlemix/__init__.py``, read without importing the package."""
    text = (ROOT / "paddlemix" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE).group(1)


def read_description() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


if __name__ == "__main__":
    setup(
        name="paddlemix",
        version=read_version(),
        description="Qwen-VL for PaddlePaddle: model, tokenizer, chat, grounding, converter, small bundled model",
        long_description=read_description(),
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        license_files=["LICENSE", "NOTICE"],
        python_requires=">=3.9,<3.13",
        packages=find_packages(include=["paddlemix", "paddlemix.*"]),
        entry_points={"console_scripts": ["paddlemix = paddlemix.cli.main:console_script"]},
        package_data={"paddlemix": PACKAGE_DATA},
        install_requires=INSTALL_REQUIRES,
        extras_require=EXTRAS_REQUIRE,
        zip_safe=False,
        classifiers=[
            "Programming Language :: Python :: 3",
            "Programming Language :: Python :: 3.11",
            "Operating System :: POSIX :: Linux",
            "Topic :: Scientific/Engineering :: Artificial Intelligence",
        ],
    )
