"""Runs of :func:`paddlemix.finetune.run.finetune` in the processes of one launch: each argument is a configuration."""

import os
import signal
import sys
from pathlib import Path

from paddlemix.errors import PaddleMixError
from paddlemix.finetune import run
from paddlemix.finetune.configuration import FinetuneConfig, read_config

INTERRUPTED = "interrupt_after"
SIGNALLED = "signal_after"


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        options = read_config(path)
        stop, signalled = options.pop(INTERRUPTED, None), options.pop(SIGNALLED, None)
        original = run.make_trainer
        if stop is not None:
            run.make_trainer = _with_stop(original, stop, _raise)
        if signalled is not None:
            run.make_trainer = _with_stop(original, signalled, _signal_last)
        try:
            run.finetune(FinetuneConfig.from_dict(options))
        except (KeyboardInterrupt, PaddleMixError) as error:
            path.with_suffix(f".{run.dist.get_rank()}.error").write_text(str(error))
        finally:
            run.make_trainer = original


def _raise():
    raise KeyboardInterrupt


def _signal_last():
    """To one process alone."""
    if run.dist.get_rank() == run.dist.get_world_size() - 1:
        os.kill(os.getpid(), signal.SIGTERM)


def _with_stop(make, stop, act):
    from paddlenlp.trainer import TrainerCallback

    class Stop(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == stop:
                act()

    def make_stopping(*args):
        trainer = make(*args)
        trainer.add_callback(Stop())
        return trainer

    return make_stopping


if __name__ == "__main__":
    main(sys.argv[1:])
