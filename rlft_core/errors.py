"""Everything rlft raises on purpose.

    RlftError
    ├── UserError            something the person running rlft can mend: the message names it and the way out
    │   ├── ConfigError      a recipe, a key, an override
    │   ├── DataError        a data file, a row, a field
    │   ├── ModelError       a model folder or hub id
    │   ├── RewardError      a reward function that raised or returned no finite number
    │   ├── ResourceError    more CPUs, GPUs, memory or disk than there are
    │   └── CheckpointError  a checkpoint that is missing, damaged or of another run
    ├── RunStopped           somebody asked the run to stop, and it did; it can be started again
    └── ServiceError         a part of the running system failed; names the actor and the phase
        ├── EngineError      a rollout engine died or refused a request
        ├── SyncError        an engine does not hold the weights it was sent
        ├── SamplesLost      samples are gone with the node that held them
        ├── LearnerError     the learner ended before its work did
        └── DeadlineError    a wait passed its deadline

Every class pickles with its arguments, because errors cross process borders.
"""

from __future__ import annotations


class RlftError(Exception):
    """Root of all errors that rlft raises on purpose."""


class UserError(RlftError):
    """Something the person running rlft can mend. The message says what and how."""


class ConfigError(UserError):
    """A recipe, a key or an override is wrong. Names the dotted key, its value and the way out."""


class DataError(UserError):
    """A data file, row or field is wrong. Names the file and the row (counted from 1)."""


class ModelError(UserError):
    """A model is missing, unreadable, unsafe or does not fit what was asked of it."""


class RewardError(UserError):
    """A reward raised or returned something that is not a finite number. Names the reward and the sample."""


class JudgeError(UserError):
    """A judge cannot say which of two answers is better. Names the row and the way out."""


class ResourceError(UserError):
    """More was asked than there is: CPUs, GPUs, memory or disk. Says both numbers."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or belongs to another configuration."""


class RunStopped(RlftError):
    """The run was asked to stop, and did. Says where it stands; started again, it goes on from there."""


class ServiceError(RlftError):
    """A part of the running system failed. Names the actor and the phase."""


class EngineError(ServiceError):
    """A rollout engine died or refused a request."""


class SyncError(ServiceError):
    """An engine does not hold the weights it was sent. Says what differed."""


class SamplesLost(ServiceError):
    """Samples are gone with the node that held them. The same prompt with the same seeds gives them again."""


class LearnerError(ServiceError):
    """The learner ended, or cannot be restarted, before the run was complete."""


class DeadlineError(ServiceError):
    """A wait passed its deadline. Names what was waited for, the phase and the last progress."""
