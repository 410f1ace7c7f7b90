"""Images by diffusers: from a job to pixels, for every kind of work and every family.

``job`` and ``problem`` import nothing heavy, so the gateway may use them. Everything else runs in a replica; torch and
diffusers are imported when they are first needed.

How the engine uses it::

    model = load_model(source, device="cpu", loras={...}, controls={...}, upscalers={...})
    ready = prepare(job, model)              # checks everything, decodes images; ImageProblem (4xx) otherwise
    batch = assemble(model, ready.calls)     # or calls of several jobs, if their .key is the same
    batch.activate()                         # sets LoRA adapters on the shared components; again after a preemption
    images = batch.run(callback)             # PIL images, in the order of the calls; blocks; one thread per batch

- ``sources.load_model(...) -> Model``: ``.family`` (a ``Family``), ``.components`` (name to module, shared between all
  calls), ``.pipe`` (the text-to-image pipeline over them), ``.loras``, ``.controls``, ``.upscalers`` (loaded on first
  use), ``.id``, ``.bytes()`` of its weights, ``.to(device)``, ``.device``, ``.dtype``, ``.capabilities()`` (the
  dictionary that the route answers).
- ``works.prepare(job, model) -> Ready``: ``.job`` (every None resolved, seed drawn) and ``.calls``, one per image.
- ``works.Call``: ``.key`` (hashable: calls with equal keys can be one batch; None: alone), ``.steps`` (that will
  really run, after strength), ``.seed``, ``.index``, ``.job``, ``.width``, ``.height`` (of the result, in pixels).
- ``works.assemble(model, calls) -> Batch``: ``.pipe`` (a pipeline object and scheduler of its own over the shared
  components), ``.kwargs(callback=None)`` (all arguments of ``pipe.__call__``, with one CPU generator per image),
  ``.steps``, ``.adapters`` (names and weights that must be set while it computes), ``.activate()`` (sets them),
  ``.finish(images)`` (pastes outside the mask, crops to the wanted size, refuses NaN), and
  ``.run(callback=None)``, which is activate, call and finish. ``callback`` is diffusers' ``callback_on_step_end``;
  it may raise to cancel. An upscaler's batch has ``.pipe`` None; its ``callback(None, tile, tiles, {})`` follows tiles.
- ``recipe.recipe(call, model, precision) -> dict``: what makes the same pixels again.
- ``problem.ImageProblem``: the one exception of the package.
"""
