// Previews of papers and symbols: shown on hover and on focus, dismissed by Escape.
(() => {
  // A page read from a folder cannot fetch the others, so the search lists titles only.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  let box = null, owner = null, timer = 0;

  const hide = () => {
    clearTimeout(timer);
    if (box) box.remove();
    if (owner) owner.removeAttribute("aria-describedby");
    box = owner = null;
  };

  const show = link => {
    hide();
    const template = document.getElementById("preview-" + link.dataset.preview);
    if (!template) return;
    owner = link;
    box = document.createElement("div");
    box.className = "preview";
    box.id = "preview-box";
    box.setAttribute("role", "tooltip");
    box.append(template.content.cloneNode(true));
    box.addEventListener("mouseenter", () => clearTimeout(timer));
    box.addEventListener("mouseleave", hide);
    document.body.append(box);
    link.setAttribute("aria-describedby", box.id);
    const at = link.getClientRects()[0], room = document.documentElement.clientWidth - box.offsetWidth - 16;
    const above = at.bottom + box.offsetHeight + 8 > innerHeight && at.top > box.offsetHeight;
    box.style.left = Math.max(16, Math.min(at.left, room)) + scrollX + "px";
    box.style.top = (above ? at.top - box.offsetHeight - 6 : at.bottom + 6) + scrollY + "px";
  };

  const later = (action, wait) => { clearTimeout(timer); timer = setTimeout(action, wait); };
  const linked = event => event.target.closest?.("a[data-preview]");

  document.addEventListener("mouseover", event => { const link = linked(event); if (link && link !== owner) later(() => show(link), 150); });
  document.addEventListener("mouseout", event => { if (linked(event)) later(hide, 200); });
  document.addEventListener("focusin", event => { const link = linked(event); if (link) show(link); else hide(); });
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
})();
