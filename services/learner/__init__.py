"""The learner: optimiser steps under Ray Train, fed through a mailbox. Only this folder imports ray.train."""
