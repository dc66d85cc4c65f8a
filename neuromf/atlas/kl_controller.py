"""Control of beta towards a target KL divergence in nats, once per epoch.

| mode | rule |
|---|---|
| corrected | below 90 % of the target for more than 3 epochs: beta falls by 10 %; above it for as long: it rises |
| literal | below 90 % of the target for more than 3 epochs: beta RISES by 10 %; a published rule, whose sign is wrong |
| pi | ControlVAE: beta = K_p / (1 + exp(e)) - K_i sum e with the error e = target - KL |
| constant | beta stays |

A larger beta lowers the KL divergence, so the literal rule drives a low KL lower.

Reference:
    ControlVAE: controllable variational autoencoder (Shao et al., 2020), arXiv:2004.05988
"""

import math

MODES = ("constant", "corrected", "literal", "pi")
FLOOR, CAP, STEP, PATIENCE = 1e-4, 10.0, 0.1, 3
K_P, K_I = 0.01, 0.001


class KLController:
    """beta of the next epoch from the mean KL divergence of each epoch.

    Arguments:
        mode: One of `MODES`.
        target: Target KL in nats.
        beta: First beta.
    """

    def __init__(self, mode: str, target: float, beta: float) -> None:
        if mode not in MODES:
            raise ValueError(f"atlas.kl_mode must be one of {', '.join(MODES)}; got {mode!r}")
        self.mode, self.target, self.beta = mode, target, beta
        self.below, self.above, self.integral = 0, 0, beta

    def update(self, kl: float) -> float:
        """beta after an epoch with mean KL `kl` in nats."""
        if self.mode == "pi":
            self.beta = self._pi(self.target - kl)
        elif self.mode != "constant":
            self.below = self.below + 1 if kl < 0.9 * self.target else 0
            self.above = self.above + 1 if kl > self.target else 0
            self.beta = min(CAP, max(FLOOR, self.beta * self._factor()))
        return self.beta

    def _factor(self) -> float:
        """Factor of beta after the counts of epochs below and above the target."""
        if self.below > PATIENCE:
            return 1 + STEP if self.mode == "literal" else 1 - STEP
        return 1 + STEP if self.mode == "corrected" and self.above > PATIENCE else 1.0

    def _pi(self, error: float) -> float:
        """Proportional and integral term; the integral stops at the bounds (no wind-up)."""
        self.integral = min(CAP, max(FLOOR, self.integral - K_I * error))
        proportional = K_P / (1 + math.exp(min(error, 500.0)))
        return min(CAP, max(FLOOR, proportional + self.integral))

    def state_dict(self) -> dict[str, float]:
        return {"beta": self.beta, "below": self.below, "above": self.above, "integral": self.integral}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.beta, self.integral = state["beta"], state["integral"]
        self.below, self.above = int(state["below"]), int(state["above"])
