"""How rebirth layers start and learn: targets, fits, distillation, a teacher."""
