// The pad: two sliders drawn as one plane, with the pieces as points.
export class Pad {
  constructor(area, x, y, changed) {
    Object.assign(this, { area, x, y, changed });
    this.dot = area.querySelector(".dot");
    for (const slider of [x, y]) {
      slider.addEventListener("input", () => this.moved());
      slider.addEventListener("keydown", (event) => this.key(event, slider));
      slider.addEventListener("focus", () => area.classList.add("focused"));
      slider.addEventListener("blur", () => area.classList.remove("focused"));
    }
    area.addEventListener("pointerdown", (event) => {
      area.setPointerCapture(event.pointerId);
      this.pointed(event);
      x.focus({ preventScroll: true });
      event.preventDefault();
    });
    area.addEventListener("pointermove", (event) => {
      if (area.hasPointerCapture(event.pointerId)) this.pointed(event);
    });
  }

  open(points) {
    for (const old of this.area.querySelectorAll(".point")) old.remove();
    this.points = points;
    for (const { name, x, y } of points) {
      const point = document.createElement("span");
      point.className = "point";
      point.textContent = name;
      point.style.left = `${100 * x}%`;
      point.style.top = `${100 * y}%`;
      this.area.append(point);
    }
    this.place(0.5, 0.5);
  }

  pointed(event) {
    const box = this.area.getBoundingClientRect();
    const within = (value) => Math.max(0, Math.min(1, value));
    this.place(within((event.clientX - box.left) / box.width), within((event.clientY - box.top) / box.height));
    this.changed();
  }

  // Both arrows' directions work, whichever of the two sliders has the focus.
  key(event, slider) {
    const step = event.shiftKey ? 0.1 : 0.02;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!move) return;
    event.preventDefault();
    this.place(Number(this.x.value) + move[0], Number(this.y.value) + move[1]);
    this.changed();
  }

  moved() {
    this.place(Number(this.x.value), Number(this.y.value));
    this.changed();
  }

  place(x, y) {
    const within = (value) => Math.round(1000 * Math.max(0, Math.min(1, value))) / 1000;
    this.x.value = within(x);
    this.y.value = within(y);
    this.dot.style.left = `${100 * within(x)}%`;
    this.dot.style.top = `${100 * within(y)}%`;
    const text = this.nearest();
    this.x.setAttribute("aria-valuetext", `${Math.round(100 * within(x))} %, ${text}`);
    this.y.setAttribute("aria-valuetext", `${Math.round(100 * within(y))} %, ${text}`);
  }

  nearest() {
    const distance = (point) => Math.hypot(point.x - this.x.value, point.y - this.y.value);
    const near = [...(this.points || [])].sort((one, two) => distance(one) - distance(two))[0];
    if (!near) return "";
    return distance(near) < 0.01 ? `on ${near.name}` : `nearest ${near.name}`;
  }
}
