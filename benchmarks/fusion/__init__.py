"""When does weighting the source's answer help? A study in worlds with an exact reward: docs/fusion_study.md."""
