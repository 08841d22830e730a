import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// What is built lies in the package, so that nobody needs Node to have the page. Names carry no hash
// of the time: the same sources give the same files, which CI compares.
export default defineConfig({
  plugins: [react()],
  base: "./",
  build: {
    outDir: "../src/safelight/server/page/static",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the page's policy allows no data: scripts or styles
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700, // kB; one file, asked for once
    rollupOptions: {
      output: {
        entryFileNames: "assets/page.js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/[name][extname]",
      },
    },
  },
  server: { proxy: { "/api": "http://127.0.0.1:7860" } },
});
