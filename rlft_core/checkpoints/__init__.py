"""The learner's whole state on disk: written aside, renamed, complete or not there at all."""
