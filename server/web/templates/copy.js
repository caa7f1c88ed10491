document.querySelectorAll("button[data-copies]").forEach((button) => {
  const field = document.getElementById(button.dataset.copies);
  const said = document.getElementById("said");
  button.hidden = false;
  button.addEventListener("click", async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      document.execCommand("copy");
    }
    said.textContent = "";
    said.textContent = button.dataset.said || "The key of " + button.dataset.of + " is copied.";
    button.textContent = "Copied";
  });
});
