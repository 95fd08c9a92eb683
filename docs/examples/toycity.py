"""Train on ToyCity and draw a prediction, from the root of the checkout."""

from pathlib import Path

from mmengine.config import Config
from mmseg.apis import inference_model, init_model, show_result_pyplot

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.toycity import write_toycity

CONFIG = Path(__file__).resolve().parents[2] / 'configs/toycity/warmup.py'
WORK_DIR = 'work_dirs/example'
IMAGE = (
    'data/toycity/acdc/rgb_anon/fog/val/GOPR0001/'
    'GOPR0001_frame_000001_rgb_anon.png'
)


def main(
    iterations: int = 100, options: dict | None = None, **sizes: int
) -> None:
    """Write ``work_dirs/example/prediction.png``."""
    write_toycity('data/toycity', **sizes)

    cfg = Config.fromfile(CONFIG)
    cfg.work_dir = WORK_DIR
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    cfg.merge_from_dict(options or {})
    build_runner(cfg).train()

    checkpoint = f'{WORK_DIR}/iter_{iterations}.pth'
    model = init_model(cfg, checkpoint, device='cpu')
    result = inference_model(model, IMAGE)
    show_result_pyplot(
        model,
        IMAGE,
        result,
        show=False,
        with_labels=False,
        out_file=f'{WORK_DIR}/prediction.png',
    )


if __name__ == '__main__':
    main()
