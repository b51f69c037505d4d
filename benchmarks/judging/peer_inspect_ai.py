"""inspect_ai on the common task, run by its own environment's Python: URL COUNT PLACES."""

import sys

from inspect_ai import Task
from inspect_ai import eval as run_task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import model_graded_qa
from inspect_ai.solver import generate


def main() -> None:
    url, count, places = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config = GenerateConfig(max_connections=places)
    model, judge = (
        get_model(f"openai/{name}", base_url=f"{url}/v1", api_key="none", config=config, responses_api=False)
        for name in ("model", "judge")
    )
    question = "what is to be said of this? " * 6
    samples = [Sample(input=f"Question {number}: {question}", target="A good one.") for number in range(count)]
    task = Task(dataset=samples, solver=generate(), scorer=model_graded_qa(model=judge))
    [log] = run_task(task, model=model, max_samples=places, display="plain", log_dir="logs")
    if log.status != "success":
        raise SystemExit(f"inspect_ai: {log.status}: {log.error}")


if __name__ == "__main__":
    main()
