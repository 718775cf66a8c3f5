"""Numbers of the arithmetic of Snake and tanh, the same for every backend; each is a float32."""

from __future__ import annotations

import math

INVERSE_PI = 1 / math.pi

PI_PIECES = (3.1415927410125732, -8.742277657347586e-08)
"""pi in two float32 pieces: a product of the first with a count below 2**22 is subtracted exactly.
"""

SINE = (-0.16666659712791443, 0.00833306647837162, -0.0001980959059437737, 2.605750751172309e-06)
"""sin(r) = r + r**3 * P(r**2) on |r| <= pi/2: the minimax fit (Lawson's iteration at Chebyshev
nodes) has relative error 6e-9, a twentieth of what float32 can show."""

ROUNDING = 1.5 * 2.0**23
"""Adding and taking away this rounds a float32 to the nearest whole number."""

INVERSE_LOG_2 = 1 / math.log(2)

LOG_2_PIECES = (0.693145751953125, 1.428606765330187e-06)

EXPONENTIAL = tuple(1 / math.factorial(n) for n in range(8))
"""exp(r) for |r| <= log(2) / 2."""

FARTHEST = 20.0
"""Beyond it, the exponential in tanh is held."""

HYPERBOLIC = (-1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925)
"""tanh(x) = x + x**3 * P(x**2) where x**2 < `NEAR`."""

NEAR = 0.09
