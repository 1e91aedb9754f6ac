"""Runs of :func:`paddlemix.finetune.run.finetune` in the processes of one launch: each argument is a configuration."""

import sys
from pathlib import Path

from paddlemix.errors import PaddleMixError
from paddlemix.finetune import run
from paddlemix.finetune.configuration import FinetuneConfig, read_config

INTERRUPTED = "interrupt_after"


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        options = read_config(path)
        stop = options.pop(INTERRUPTED, None)
        original = run.make_trainer
        if stop is not None:
            run.make_trainer = _with_stop(original, stop)
        try:
            run.finetune(FinetuneConfig.from_dict(options))
        except (KeyboardInterrupt, PaddleMixError) as error:
            path.with_suffix(f".{run.dist.get_rank()}.error").write_text(str(error))
        finally:
            run.make_trainer = original


def _with_stop(make, stop):
    from paddlenlp.trainer import TrainerCallback

    class Stop(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == stop:
                raise KeyboardInterrupt

    def make_stopping(*args):
        trainer = make(*args)
        trainer.add_callback(Stop())
        return trainer

    return make_stopping


if __name__ == "__main__":
    main(sys.argv[1:])
