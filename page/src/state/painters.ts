// What draws: this server's own process, or replicas. Of replicas it is asked again and again while
// there is something to see: jobs that are not over, or one that is not there.

import { useEffect, useState } from "react";

import { api } from "../api/client";
import type { Painter } from "../api/types";

const PAUSE = 3000; // milliseconds

/** What draws, as it was a moment ago; `fresh` changes whenever it should be asked at once. */
export function usePainters(fresh: number, busy: boolean): Painter[] {
  const [painters, setPainters] = useState<Painter[]>([]);
  const watched = painters.length > 1 && (busy || painters.some((one) => one.state !== "free"));
  useEffect(() => {
    let over = false;
    const ask = () => {
      if (document.hidden) return;
      api.painters().then(
        (told) => {
          if (!over) setPainters(told);
        },
        () => undefined, // what the page cannot do without says so itself
      );
    };
    ask();
    const timer = watched ? window.setInterval(ask, PAUSE) : undefined;
    return () => {
      over = true;
      window.clearInterval(timer);
    };
  }, [fresh, watched]);
  return painters;
}
