// Returns the texts of the page whose contrast to what is behind them is too small for WCAG 2.1 AA.
(() => {
  const parts = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((part) => {
      const share = part / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const boxBehind = (element) => {
    const of = element.getBoundingClientRect();
    const [x, y] = [of.x + of.width / 2, of.y + of.height / 2];
    return [...(element.closest("svg")?.querySelectorAll("rect") ?? [])].findLast((box) => {
      const place = box.getBoundingClientRect();
      return place.left <= x && x <= place.right && place.top <= y && y <= place.bottom;
    });
  };
  const behind = (element) => {
    const box = boxBehind(element);
    if (box) return parts(getComputedStyle(box).fill);
    for (let of = element; of; of = of.parentElement) {
      const color = parts(getComputedStyle(of).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const pale = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
    if (!own.length || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const color = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(parts(color)), light(behind(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) pale.push(`${element.tagName} ${contrast.toFixed(2)} ${own[0].data.trim().slice(0, 30)}`);
  }
  return pale;
})()
