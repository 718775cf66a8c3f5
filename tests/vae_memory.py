"""Peak memory of decoding 47 seconds of Stable Audio Open in torch, with random weights.

``python tests/vae_memory.py`` prints it for `torch_vae` and for diffusers' own autoencoder, each in
a process of its own, with everything that it imports. Linux only.
"""

from __future__ import annotations

import subprocess
import sys

MAKERS = {
    "torch_vae": """
import oobleck_stream as ob
vae = ob.torch_vae(ob.load("random:stable-audio-open-1.0"))
""",
    "diffusers": """
from diffusers import AutoencoderOobleck
vae = AutoencoderOobleck().eval()
""",
}
DECODE = """
import torch
with torch.no_grad():
    sound = vae.decode(torch.randn(1, 64, 1024)).sample
assert sound.shape == (1, 2, 2097152), sound.shape
(line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(line.split()[1]) * 1024)
"""


def peaks() -> dict[str, int]:
    """Peak resident memory in bytes, for each of `MAKERS`."""
    found = {}
    for name, make in MAKERS.items():
        command = [sys.executable, "-W", "ignore", "-c", make + DECODE]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
        found[name] = int(done.stdout)
        print(f"{name:10} {found[name] / 1e6:8.0f} MB")
    return found


if __name__ == "__main__":
    mine, own = peaks().values()
    print(f"{'ratio':10} {mine / own:8.2f}")
