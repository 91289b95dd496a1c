import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  build: { outDir: "fartrack_web/page", emptyOutDir: true, target: "es2023", assetsInlineLimit: 0 },
  worker: { format: "es" },
  test: { include: ["tests/*.test.ts"] },
} as Parameters<typeof defineConfig>[0]);
