"""Train the bundled model: one stage at a time, resumable. See ``--help`` and docs/bundled_model.md."""

from paddlemix.zoo.training.train import main

if __name__ == "__main__":
    main()
