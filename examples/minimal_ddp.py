"""The smallest complete example: data-parallel training with compressed gradients.

Run it with two processes on this machine (CPU, Gloo):

    torchrun --standalone --nproc-per-node=2 examples/minimal_ddp.py

Against an ordinary DDP script one line is new: `hook = tsq.attach(ddp)`.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torch_smoothquant as tsq


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    ddp = DistributedDataParallel(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1)))
    hook = tsq.attach(ddp)  # <- the only line that compression adds to the training script
    optimizer = torch.optim.Adam(ddp.parameters(), lr=1e-3)
    torch.manual_seed(1 + dist.get_rank())  # every rank draws its own data
    for step in range(1, 201):
        x = torch.randn(128, 64)
        loss = nn.functional.mse_loss(ddp(x), x.square().mean(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 and dist.get_rank() == 0:
            print(f"step {step}: loss {loss.item():.4f}")
    if dist.get_rank() == 0:
        stats = hook.stats()
        print(f"{stats['wire_bytes']:,} bytes sent; plain DDP {stats['dense_bytes']:,}")
        print(hook.log_line())  # what was chosen for this link, and why
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
