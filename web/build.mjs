// Builds aiia_web/static/dist: one stylesheet, one script, one sprite, and what only some messages need. `--watch` rebuilds on change.
import { execFile } from "node:child_process";
import { copyFile, mkdir, readFile, rm, watch, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import esbuild from "esbuild";

const root = dirname(fileURLToPath(import.meta.url));
const out = join(root, "aiia_web/static/dist");
const run = promisify(execFile);

async function styles() {
  const cli = join(root, "node_modules/@tailwindcss/cli/dist/index.mjs");
  await run(process.execPath, [cli, "--minify", "-i", "assets/app.css", "-o", join(out, "app.css")], { cwd: root });
}

const bundled = { bundle: true, minify: true, target: ["es2020"], legalComments: "none" };

async function scripts() {
  await esbuild.build({
    ...bundled,
    entryPoints: [join(root, "assets/app.js")],
    outfile: join(out, "app.js"),
    format: "iife",
  });
}

/** Modules that only some messages need: formulas with their fonts, diagrams in a file for each kind. */
async function modules() {
  await esbuild.build({
    ...bundled,
    entryPoints: [join(root, "assets/math.js"), join(root, "assets/diagrams.js")],
    outdir: out,
    format: "esm",
    splitting: true,
    chunkNames: "chunks/[name]-[hash]",
    assetNames: "fonts/[name]",
    loader: { ".woff2": "file", ".woff": "empty", ".ttf": "empty" },
  });
}

/** Only the icons that assets/icons.txt names, each as a symbol. */
async function sprite() {
  const names = (await readFile(join(root, "assets/icons.txt"), "utf8")).split("\n").filter(Boolean);
  const symbols = await Promise.all(
    names.map(async (name) => {
      const svg = await readFile(join(root, "node_modules/lucide-static/icons", `${name}.svg`), "utf8");
      const body = svg.replace(/^[\s\S]*?<svg[\s\S]*?>/, "").replace("</svg>", "").replace(/\s+/g, " ").trim();
      return `<symbol id="${name}" viewBox="0 0 24 24">${body}</symbol>`;
    }),
  );
  await writeFile(join(out, "icons.svg"), `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join("")}</svg>\n`);
}

/** Of exported documents; no page loads them. */
async function fonts() {
  const folder = join(root, "node_modules/dejavu-fonts-ttf/ttf");
  const files = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf"];
  await Promise.all(files.map((file) => copyFile(join(folder, file), join(out, file))));
}

async function build() {
  await mkdir(out, { recursive: true });
  await Promise.all([styles(), scripts(), modules(), sprite(), fonts()]);
}

await rm(out, { recursive: true, force: true });
await build();
if (process.argv.includes("--watch")) {
  const changes = ["assets", "aiia_web"].map(async (folder) => {
    for await (const { filename } of watch(join(root, folder), { recursive: true })) {
      if (filename?.startsWith("static/")) continue;
      await build().catch((error) => console.error(error.stderr ?? error.message));
    }
  });
  await Promise.all(changes);
}
