"""evalscope on the common task, run by its own environment's Python: URL COUNT PLACES."""

import json
import sys
from pathlib import Path

from evalscope import TaskConfig, run_task


def main() -> None:
    url, count, places = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    data = Path("data").resolve()
    data.mkdir()
    question = "what is to be said of this? " * 6
    rows = [{"query": f"Question {number}: {question}", "response": "A good one."} for number in range(count)]
    (data / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TaskConfig(
        model="model",
        api_url=f"{url}/v1",
        api_key="none",
        eval_type="openai_api",
        datasets=["general_qa"],
        dataset_args={"general_qa": {"local_path": str(data), "subset_list": ["bench"]}},
        eval_batch_size=places,
        judge={"strategy": "llm", "models": [{"model_id": "judge", "api_url": f"{url}/v1", "api_key": "none"}]},
        work_dir="outputs",
    )
    run_task(task)


if __name__ == "__main__":
    main()
