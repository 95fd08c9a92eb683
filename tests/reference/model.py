"""Inference and training steps around the reference head."""

import torch

from .criterion import PlainCriterion
from .head import PlainHead

CLIP_NORM = 0.01


class PlainModel:
    """A frozen tower, a student head, and a teacher head.

    Args:
        tower (Callable): (N, 3, H, W) -> four maps.
        student (dict): Parameters of the head, as for :class:`PlainHead`.
        teacher (dict): Those of the teacher's.
        mean (Tensor): (3, 1, 1), of the images.
        std (Tensor): (3, 1, 1).
        num_points (int): At which masks are compared.
        options (dict): ``heads`` and ``groups`` of :class:`PlainHead`.
    """

    def __init__(
        self, *, tower, student, teacher, mean, std, num_points, **options
    ):
        self.run_tower = tower
        self.mean, self.std = mean, std
        self.parameters = list(student.values())
        self.head = PlainHead(student, **options)
        self.teacher = PlainHead(teacher, **options)
        self.student_state, self.teacher_state = student, teacher
        self.criterion = PlainCriterion(num_points)

    @torch.no_grad()
    def tower(self, images):
        return self.run_tower((images.float() - self.mean) / self.std)

    @torch.no_grad()
    def predict(self, images):
        """Images (N, 3, H, W) uint8 to labels (N, H, W)."""
        classes, masks = self.head.forward(self.tower(images))
        size = images.shape[-2:]
        return self.head.scores(classes[-1], masks[-1], size).argmax(1)

    @torch.no_grad()
    def make_labels(self, clean):
        classes, masks = self.teacher.forward(self.tower(clean))
        size = clean.shape[-2:]
        return self.teacher.scores(classes[-1], masks[-1], size).argmax(1)

    def backward(self, loss):
        loss.backward()

    def update(self, optimizer):
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()

    def train_step(self, images, labels, optimizer):
        outputs = self.head.forward(self.tower(images))
        loss = self.criterion(*outputs, labels)
        self.backward(loss)
        self.update(optimizer)
        return loss.detach()

    def self_train_step(self, images, labels, clean, optimizer):
        """The images without labels come last; ``clean`` are their views."""
        made = self.make_labels(clean)
        return self.train_step(images, torch.cat([labels, made]), optimizer)

    @torch.no_grad()
    def update_teacher(self, decay=0.999):
        for name, value in self.teacher_state.items():
            value.mul_(decay).add_(self.student_state[name], alpha=1 - decay)
