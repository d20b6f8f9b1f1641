for (const zoom of document.querySelectorAll(".zoom")) {
  const frame = document.getElementById(zoom.dataset.for);
  const inner = frame.firstElementChild;
  let factor = 1;
  zoom.hidden = false;
  const set = (wanted, at) => {
    const middle = at ?? frame.clientWidth / 2;
    const place = (frame.scrollLeft + middle) / inner.clientWidth;
    factor = Math.min(Math.max(wanted, 1), 64);
    inner.style.width = `${100 * factor}%`;
    frame.scrollLeft = place * inner.clientWidth - middle;
  };
  zoom.querySelector(".in").addEventListener("click", () => set(factor * 2));
  zoom.querySelector(".out").addEventListener("click", () => set(factor / 2));
  zoom.querySelector(".whole").addEventListener("click", () => set(1));
  frame.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    set(factor * (event.deltaY < 0 ? 1.25 : 0.8), event.clientX - frame.getBoundingClientRect().left);
  }, { passive: false });
}
