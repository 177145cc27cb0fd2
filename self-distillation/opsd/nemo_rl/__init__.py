"""ENGINE=nemo-rl: Phase 2 on NVIDIA's NeMo-RL v0.7.0, for several GPUs and nodes.

NeMo-RL provides the Ray cluster and worker groups, vLLM generation beside the trainer, the transfer of weights to
vLLM, sharded models (FSDP2 with tensor parallelism, or Megatron-Core) and checkpoints. Ours are the engine
(driver/engine.py), the step inside the policy workers (worker/step.py) and the verifier as an environment. The
loop, the sequences and the KL are the same functions as in the local engine.

    micro_batches.py                 pairs -> the micro-batches of every rank
    driver/                          in the driver process
        engine.py                    the Engine
        worker_group.py              handle for the policy and vLLM workers
        generation.py                NeMo-RL's vLLM engines as a sampler, its environment as a grader
        verifier_environment.py      the verifier as a NeMo-RL environment (a Ray actor)
        config.py megatron_config.py our configuration -> NeMo-RL's
        runtime.py                   paths, actor registry, Ray
        lost_workers.py              the errors and the end of workers
        check_environment.py         what setup_env.sh checks
    worker/                          one process for each GPU
        step.py                      the distillation step, shared by both training backends
        swap_weights.py              the teacher's weights in the student's place
        hf_export.py                 the exported student
        vllm.py sampling.py          a vLLM engine as a sampler: seeds for each request, samples as they finish
        vllm_extension.py            what each process of such an engine imports
    stubs/                           stand-ins for packages that NeMo-RL imports and Phase 2 does not use

The two training backends differ in

    TRAINER_BACKEND                    dtensor             megatron
    the policy worker                  dtensor.py          megatron.py
    gradients, optimizer, schedule     dtensor_step.py     megatron_step.py, torch_adam.py
    stages, positions over ranks       -                   megatron_pipeline.py, context_parallel.py
    layers                             transformers'       megatron_layers.py, without_transformer_engine.py
    a model up to its LM head          lm_head_hook.py     megatron_lm_head_hook.py
    the section of its configuration   driver/config.py    driver/megatron_config.py

Only engine.py, worker_group.py, generation.py, verifier_environment.py, the three workers, vllm_extension.py,
torch_adam.py and, once it is on the path, runtime.py import NeMo-RL, and only the Megatron files in worker/ import
Megatron.
"""
