"""The result of `fit`: the trained model, or an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lvm_jax._core.outcome import Outcome
from lvm_jax._core.pairs import Pair
from lvm_jax.training.diagnosis import Failure
from lvm_jax.training.log import History
from lvm_jax.training.saved import architecture_of, write_model
from lvm_jax.training.session import Session
from lvm_jax.typing import Params


class Fit(NamedTuple):
    """A trained model, and the history of its training.

    The parameters are those of the best validation, or those of the last step without validation;
    averages where the optimiser keeps them.
    """

    p: Any  # p(x, z), with its parameters: a `models.Joint` unless the pair has its own
    q: Any  # q(z | x): a `guides.Conditional` unless the pair has its own
    params: Params  # the trained parameters: `Parameters(theta, phi)` for a model and a guide
    outcome: Outcome  # MAX_STEPS: all epochs; CONVERGED: patience ran out; INTERRUPTED; DIVERGED
    step: int  # steps made
    best_step: int | None  # of the best validation
    history: History
    failure: Failure | None  # where it diverged
    pair: Pair  # params -> (p, q)

    def save(self, directory: str | Path, config: Mapping[str, Any] | None = None) -> Path:
        """Write the parameters and the configuration of the pair, for `training.load`.

        `config` is plain JSON: all that `build` of `load` needs to make the pair. None stands for
        the architecture of a pair of `vae.build`. An earlier model in the directory is replaced
        atomically. Returns the folder, directory/model.

        Raises TypeError for a config that is not JSON, or None for a pair without an architecture;
        CheckpointError if the folder cannot be written.
        """
        if config is None:
            config = architecture_of(self.pair)
        return write_model(directory, config, self.params)


def result(session: Session, outcome: Outcome, failure: Failure | None) -> Fit:
    """The `Fit` of a session."""
    log, program = session.log, session.program
    chosen = session.evaluated() if log.best is None else log.best
    p, q = program.pair(chosen)
    return Fit(
        p=p,
        q=q,
        params=chosen,
        outcome=outcome,
        step=session.step,
        best_step=None if log.best is None else log.best_step,
        history=log.history(),
        failure=failure,
        pair=program.pair,
    )


def report(
    session: Session, outcome: Outcome, failure: Failure | None, directory: str | Path | None
) -> None:
    """Raise FloatingPointError after divergence, KeyboardInterrupt after an interrupt."""
    if failure is not None:
        where = "no checkpoints were kept" if session.store is None else session.store.last_good()
        raise FloatingPointError(
            f"{failure}; {where}. Begin again with a lower learning rate, "
            "optax.clip_by_global_norm, or data of unit scale"
        )
    if outcome == Outcome.INTERRUPTED:
        raise KeyboardInterrupt(
            f"stopped at step {session.step} and saved in {directory}; the same call resumes it"
        )
